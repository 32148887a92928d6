/* A program that knows nothing but the installed library: trains y = 3x by gradient descent. */
#include <tensorbrain.h>

int main(void)
{
    tb_ctx *ctx = NULL;
    if (tb_ctx_create(&(tb_ctx_config){.seed = 1}, &ctx) != TB_OK) return tb_report(stderr);
    tb_ctx_enter(ctx);
    tb_tensor *w = tb_full(TB_F32, 1, (int64_t[]){1}, 0), *x = tb_arange(TB_F32, 0, 4, 1);
    if (tb_require_grad(w) != TB_OK) return tb_report(stderr);
    float loss = 0;
    for (int step = 0; step < 100; step++) {
        tb_scope *s = tb_scope_open();
        tb_tensor *e = tb_sub(tb_mul(x, w), tb_mul(x, tb_scalar(TB_F32, 3)));
        tb_tensor *l = tb_mean(tb_mul(e, e), 0, NULL, false);
        tb_status st = tb_backward(l);
        if (st == TB_OK) st = tb_item_f32(l, &loss);
        if (st != TB_OK) return tb_report(stderr);
        tb_grad_mode(ctx, false);
        tb_accumulate(w, tb_mul(tb_grad(w), tb_scalar(TB_F32, -0.1)), false);
        tb_grad_mode(ctx, true);
        tb_grad_clear(w);
        tb_scope_close(s);
    }
    printf("loss %.2g\n", (double)loss);
    int64_t leaked = tb_ctx_destroy(ctx);
    return leaked || loss > 1e-6f;
}
