/* The same from C++: the umbrella header compiles, and links, as C++17. */
#include <cstdio>
#include <tensorbrain.h>

int main()
{
    tb_ctx_config config = {};
    tb_ctx *ctx = nullptr;
    config.seed = 1;
    if (tb_ctx_create(&config, &ctx) != TB_OK) return tb_report(stderr);
    tb_ctx_enter(ctx);
    const int64_t dims[] = {2, 3};
    float sum = 0;
    if (tb_item_f32(tb_sum(tb_full(TB_F32, 2, dims, 7), 0, nullptr, false), &sum) != TB_OK) return tb_report(stderr);
    std::printf("sum %g\n", static_cast<double>(sum));
    return tb_ctx_destroy(ctx) != 0 || sum != 42;
}
