/* The step: norm and clipping, then one in-place op per parameter. */
#include "tb_optim.h"
#include "tb_alloc.h"
#include "tb_autograd.h"
#include "tb_ops.h"
#include <math.h>

enum { MAX_STATES = 2 };

struct tb_optim {
    tb_optim_config cfg;
    tb_params *params;
    int n_states;      /* per parameter */
    tb_tensor **state; /* parameter i's are state[i * n_states] and the next */
    char **state_name;
    int64_t steps;
    double grad_norm;
};

static tb_status make_state(tb_optim *o, int index)
{
    static const char *const suffix[TB_OPTIM_ADAMW + 1][MAX_STATES] = {
        [TB_OPTIM_SGD] = {"momentum"}, [TB_OPTIM_ADAM] = {"m", "v"}, [TB_OPTIM_ADAMW] = {"m", "v"}};
    const tb_param *p = tb_params_at(o->params, index / o->n_states);
    tb_ctx *ctx = tb_ctx_current();
    tb_mem_tag before = tb_ctx_set_tag(ctx, TB_MEM_OPT);
    tb_scope *scope = tb_scope_open();
    o->state[index] = tb_retain(tb_zeros_like(p->tensor));
    tb_scope_close(scope);
    tb_ctx_set_tag(ctx, before);
    o->state_name[index] = tb_asprintf("%s/%s", p->name, suffix[o->cfg.kind][index % o->n_states]);
    TB_TRY(tb_ctx_take_error(ctx));
    return o->state_name[index] ? TB_OK : TB_ERR_OOM;
}

tb_status tb_optim_create(tb_params *ps, const tb_optim_config *config, tb_optim **out)
{
    *out = NULL;
    tb_optim *o = tb_calloc(1, sizeof *o);
    if (!o) return TB_ERR_OOM;
    o->cfg = *config;
    o->params = ps;
    o->n_states = tb_optim_states(config);
    int n = tb_optim_state_count(o);
    o->state = tb_calloc((size_t)n + 1, sizeof *o->state);
    o->state_name = tb_calloc((size_t)n + 1, sizeof *o->state_name);
    tb_status st = o->state && o->state_name ? TB_OK : TB_ERR_OOM;
    for (int i = 0; st == TB_OK && i < n; i++) st = make_state(o, i);
    if (st == TB_OK) *out = o;
    else tb_optim_destroy(o);
    return st;
}

void tb_optim_destroy(tb_optim *o)
{
    if (!o) return;
    for (int i = 0; o->state && o->state_name && i < tb_optim_state_count(o); i++) {
        tb_release(o->state[i]);
        tb_free(o->state_name[i]);
    }
    tb_free(o->state);
    tb_free(o->state_name);
    tb_free(o);
}

void tb_optim_set_rate(tb_optim *o, double rate) { o->cfg.rate = rate; }
double tb_optim_rate(const tb_optim *o) { return o->cfg.rate; }
int64_t tb_optim_steps(const tb_optim *o) { return o->steps; }
void tb_optim_set_steps(tb_optim *o, int64_t steps) { o->steps = steps; }
double tb_optim_grad_norm(const tb_optim *o) { return o->grad_norm; }
int tb_optim_state_count(const tb_optim *o) { return tb_params_count(o->params) * o->n_states; }
tb_tensor *tb_optim_state(const tb_optim *o, int index) { return o->state[index]; }
const char *tb_optim_state_name(const tb_optim *o, int index) { return o->state_name[index]; }

tb_status tb_grad_norm(const tb_params *ps, double *out)
{
    double total = 0;
    for (int i = 0; i < tb_params_count(ps); i++) {
        tb_tensor *g = tb_grad(tb_params_at(ps, i)->tensor);
        double squares;
        if (!g) continue;
        tb_scope *scope = tb_scope_open();
        if (tb_dtype_size(tb_tensor_dtype(g)) < sizeof(float)) g = tb_cast(g, TB_F32); /* f16 ends at 256 squared */
        tb_status st = tb_item_f64(tb_sum(tb_mul(g, g), 0, NULL, false), &squares);
        tb_scope_close(scope);
        TB_TRY(st);
        total += squares;
    }
    *out = sqrt(total);
    return TB_OK;
}

static tb_optim_config completed(tb_optim_config c)
{
    if (c.beta1 == 0 && c.beta2 == 0 && c.eps == 0) c.beta1 = 0.9, c.beta2 = 0.999, c.eps = 1e-8;
    return c;
}

int tb_optim_states(const tb_optim_config *c) { return c->kind == TB_OPTIM_SGD ? c->momentum != 0 : 2; }

tb_optim_attrs tb_optim_attrs_at(const tb_optim_config *config, bool decays, int64_t t, double scale)
{
    tb_optim_config c = completed(*config);
    double decay = decays ? c.decay : 0;
    if (c.kind == TB_OPTIM_SGD) return (tb_optim_attrs){.sgd = {c.rate, scale, decay, c.momentum, c.nesterov}};
    return (tb_optim_attrs){.adamw = {.rate = c.rate, .scale = scale, .decay = decay, .beta1 = c.beta1,
                                      .beta2 = c.beta2,
                                      .eps = c.eps, .bias1 = 1 - pow(c.beta1, (double)t),
                                      .bias2 = 1 - pow(c.beta2, (double)t), .decoupled = c.kind == TB_OPTIM_ADAMW}};
}

static void update(tb_optim *o, int index, double scale)
{
    const tb_param *p = tb_params_at(o->params, index);
    tb_tensor *g = tb_grad(p->tensor), **state = o->state + index * o->n_states;
    tb_optim_attrs attrs = tb_optim_attrs_at(&o->cfg, p->decays, o->steps, scale);
    if (!g) return;
    if (o->cfg.kind == TB_OPTIM_SGD) tb_sgd(p->tensor, g, o->n_states ? state[0] : NULL, &attrs.sgd);
    else tb_adamw(p->tensor, g, state[0], state[1], &attrs.adamw);
}

/* taken NULL: gradients that are not finite are applied like any. */
static tb_status step(tb_optim *o, double loss_scale, bool *taken)
{
    tb_ctx *ctx = tb_ctx_current();
    double norm = 0, scale = 1 / loss_scale;
    bool clips = o->cfg.clip_norm > 0;
    TB_TRY(tb_ctx_take_error(ctx));
    bool recorded = tb_grad_mode(ctx, false);
    tb_scope *scope = tb_scope_open();
    tb_status st = clips || taken ? tb_grad_norm(o->params, &norm) : TB_OK;
    if (taken) *taken = isfinite(norm);
    if (st == TB_OK && (!taken || *taken)) {
        o->grad_norm = norm / loss_scale;
        if (clips && o->grad_norm > o->cfg.clip_norm) scale *= o->cfg.clip_norm / o->grad_norm;
        o->steps++;
        for (int i = 0; i < tb_params_count(o->params); i++) update(o, i, scale);
        st = tb_ctx_take_error(ctx);
    }
    tb_scope_close(scope);
    tb_grad_mode(ctx, recorded);
    tb_params_clear_grads(o->params);
    return st;
}

tb_status tb_optim_step(tb_optim *o) { return step(o, 1, NULL); }
tb_status tb_optim_step_scaled(tb_optim *o, double loss_scale, bool *taken) { return step(o, loss_scale, taken); }
