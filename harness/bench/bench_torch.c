/* torch answers each number of iterations with the milliseconds that they took. */
#include "bench_torch.h"
#include "peer.h"
#include <string.h>

enum { MOST_WORDS = 12 };

tb_status tb_bench_torch_start(tb_bench_torch *t, int threads, const char *what)
{
    char count[16], words[128], *args[MOST_WORDS + 2] = {count}, *rest = NULL;
    int n = 1;
    snprintf(count, sizeof count, "%d", threads);
    snprintf(words, sizeof words, "%s", what);
    for (char *w = strtok_r(words, " ", &rest); w && n <= MOST_WORDS; w = strtok_r(NULL, " ", &rest))
        args[n++] = w;
    return tb_peer_start("torch_bench.py", args, &t->peer, t->detail);
}

void tb_bench_torch_stop(tb_bench_torch *t)
{
    tb_peer_stop(t->peer);
    t->peer = NULL;
}

static tb_status run(void *self, int64_t times, double *ns)
{
    tb_bench_torch *t = self;
    double ms = 0;
    TB_TRY(tb_peer_repeat(t->peer, times, &ms));
    *ns = ms * 1e6;
    return TB_OK;
}

void tb_bench_torch_join(tb_bench_torch *t, tb_bench_case *c)
{
    c->peer = (tb_bench_side){run, t};
    c->peer_detail = t->detail;
}

tb_status tb_bench_measure_beside_torch(tb_bench_run *run, const char *what, tb_bench_case *c)
{
    tb_bench_torch torch = {0};
    tb_status st = run->peer ? tb_bench_torch_start(&torch, run->threads, what) : TB_OK;
    if (st == TB_OK && run->peer) tb_bench_torch_join(&torch, c);
    if (st == TB_OK) st = tb_bench_measure(run, c);
    tb_bench_torch_stop(&torch);
    return st;
}
