/* The progress line, on stderr. */
#include "progress.h"
#include "tb_cpu.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void tb_progress_open(tb_progress *p, const tb_experiment *e, int total)
{
    *p = (tb_progress){.experiment = e, .total = total, .begin_ns = tb_now_ns()};
    const char *term = getenv("TERM");
    p->is_terminal = isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;
}

void tb_progress_begin(tb_progress *p, const tb_plan_point *point, int64_t launch)
{
    p->point = point;
    p->launch = launch;
    p->at++;
}

static void put_head(const tb_progress *p)
{
    fprintf(stderr, "[%*d/%d] %s   launch %lld/%lld", p->total > 9 ? 2 : 1, p->at, p->total, p->point->label,
            (long long)p->launch + 1, (long long)p->experiment->launches);
}

/* Launches of one run are alike: the mean of those that are over, for those that are to come. */
static void put_eta(const tb_progress *p)
{
    int over = p->at - 1;
    if (over == 0) return;
    double each = (double)(tb_now_ns() - p->begin_ns) * 1e-9 / (over + 0.5);
    int left = (int)(each * (p->total - over - 0.5));
    fprintf(stderr, "   ETA %d:%02d", left / 60, left % 60);
}

void tb_progress_tick(void *progress, const tb_board *board)
{
    const tb_progress *p = progress;
    if (!p->is_terminal) return;
    const tb_board_slot *rank0 = &board->slots[0];
    fputs("\r\033[K", stderr);
    put_head(p);
    if (rank0->phase[0]) fprintf(stderr, "   %.40s", rank0->phase);
    if (rank0->step >= 0) fprintf(stderr, " %lld", (long long)rank0->step);
    if (rank0->step >= 0 && rank0->total > 0) fprintf(stderr, "/%lld", (long long)rank0->total);
    if (rank0->headline[0])
        fprintf(stderr, "   %.30s %.4g %.15s", rank0->headline, rank0->value, rank0->unit);
    put_eta(p);
    fflush(stderr);
}

void tb_progress_note(const tb_progress *p, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    if (p->is_terminal) fputs("\r\033[K", stderr);
    put_head(p);
    fputs("   ", stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
}

void tb_progress_end(tb_progress *p, const tb_outcome *outcome)
{
    bool is_ok = strcmp(outcome->status, "ok") == 0;
    if (p->is_terminal) fputs("\r\033[K", stderr);
    if (p->is_terminal && is_ok) return; /* the closing table tells; only trouble stays on the screen */
    put_head(p);
    fprintf(stderr, "   %s   %.1f s%s%s\n", outcome->status, outcome->seconds, is_ok ? "" : "   ",
            outcome->reason);
}
