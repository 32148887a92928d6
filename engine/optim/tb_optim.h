/* Optimizers over parameter sets, learning rate schedules, clipping by the global norm.
 *
 * An optimizer borrows its set and owns one state tensor (SGD with momentum) or two (Adam) per parameter, tagged opt.
 * Rates are plain numbers that each step reads. Steps of elements are independent, the norm is summed in a fixed
 * order: results do not depend on threads. */
#pragma once
#include "tb_kernel.h"
#include "tb_params.h"

typedef enum tb_optim_kind { TB_OPTIM_SGD, TB_OPTIM_ADAM, TB_OPTIM_ADAMW } tb_optim_kind;

typedef struct tb_optim_config {
    tb_optim_kind kind;
    double rate;        /* of steps that no schedule changes */
    double decay;       /* weight decay of parameters that decay (SGD, Adam: added to the gradient) */
    double momentum;    /* SGD */
    bool nesterov;      /* SGD */
    double beta1, beta2, eps; /* Adam, AdamW; all 0 means 0.9, 0.999, 1e-8 */
    double clip_norm;   /* gradients are scaled down to this global 2-norm; 0: never */
} tb_optim_config;

typedef struct tb_optim tb_optim;

TB_MUST_USE tb_status tb_optim_create(tb_params *ps, const tb_optim_config *config, tb_optim **out);
void tb_optim_destroy(tb_optim *o); /* NULL is accepted */
/* Takes a pending op error first. Applies every parameter's gradient (those without one stay as they are), then
 * forgets the gradients. Parameters change in place. */
TB_MUST_USE tb_status tb_optim_step(tb_optim *o);
/* The same for gradients of loss_scale * loss: they count for 1 / loss_scale. Where one is not finite, nothing is
 * applied or counted, the gradients are forgotten, and *taken is false. */
TB_MUST_USE tb_status tb_optim_step_scaled(tb_optim *o, double loss_scale, bool *taken);
void tb_optim_set_rate(tb_optim *o, double rate);
double tb_optim_rate(const tb_optim *o);
int64_t tb_optim_steps(const tb_optim *o); /* taken so far */
double tb_optim_grad_norm(const tb_optim *o); /* of the last step, before clipping; 0 where no step needed it */

/* What a checkpoint keeps besides the parameters: states, in a fixed order, and the step count. */
int tb_optim_state_count(const tb_optim *o);
tb_tensor *tb_optim_state(const tb_optim *o, int index);
const char *tb_optim_state_name(const tb_optim *o, int index); /* "fc1.weight/m" */
void tb_optim_set_steps(tb_optim *o, int64_t steps);

/* What step t = 1, 2, .. asks of one parameter, as the ops and kernels sgd and adamw take it; `scale` is of the
 * gradient. Betas and eps that are all 0 have their defaults. */
typedef union tb_optim_attrs {
    tb_sgd_step sgd;
    tb_adamw_step adamw;
} tb_optim_attrs;
tb_optim_attrs tb_optim_attrs_at(const tb_optim_config *c, bool decays, int64_t t, double scale);
int tb_optim_states(const tb_optim_config *c); /* state tensors of each parameter: 0, 1 or 2 */

/* The 2-norm of all gradients: squares of each parameter's gradient (f16 and bf16 in f32) are summed by the sum op,
 * those sums in the set's order in f64. Parameters without a gradient count for nothing. */
TB_MUST_USE tb_status tb_grad_norm(const tb_params *ps, double *out);

/* ---- dynamic loss scaling (Micikevicius et al., "Mixed Precision Training", 2018, section 3.2): gradients that pass
 * through f16 are those of scale * loss. A step whose gradients overflowed is skipped and halves the scale; so many
 * good steps in a row double it. ---- */
#define TB_LOSS_SCALE_MAX 0x1p40 /* gradients that never overflow would let it grow for ever */
typedef struct tb_loss_scale {
    double scale;         /* a power of two: scaling rounds nothing */
    int64_t growth_steps; /* good steps until it doubles; 0: never */
    int64_t good_steps;   /* in a row, since it last changed */
    int64_t skipped;      /* steps, of all */
} tb_loss_scale;
/* After a step that was taken or not. Fails where gradients are not finite even at scale 1. */
TB_MUST_USE tb_status tb_loss_scale_update(tb_loss_scale *s, bool taken);

/* ---- schedules: the rate of step t = 0, 1, .. as a pure function ---- */
typedef enum tb_lr_kind { TB_LR_CONSTANT, TB_LR_COSINE } tb_lr_kind;
typedef struct tb_lr_schedule {
    tb_lr_kind kind;
    double rate;     /* peak */
    double floor;    /* cosine ends here */
    int64_t warmup;  /* steps of linear rise: rate * (t + 1) / warmup; 0: none */
    int64_t steps;   /* cosine: of the whole run; later steps stay at floor */
} tb_lr_schedule;
/* Cosine (Loshchilov, Hutter: "SGDR", 2017):
 * floor + (rate - floor) / 2 * (1 + cos(pi * (t - warmup) / (steps - warmup))). */
double tb_lr_at(const tb_lr_schedule *s, int64_t step);
/* A schedule that reaches its end, with rates that are finite and not negative. */
TB_MUST_USE tb_status tb_lr_check(const tb_lr_schedule *s);
