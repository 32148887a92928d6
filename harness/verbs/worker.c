/* tb worker: one rank of one launch, started by mpirun from `tb run`. All it needs stands in the journal's
 * first record. */
#include "board.h"
#include "crash.h"
#include "execute.h"
#include "group.h"
#include "journal.h"
#include "tb_cpu.h"
#include "tb_log.h"
#include "tb_verb.h"
#include <signal.h>
#include <sys/prctl.h>
#include <time.h>

/* A rank that fails alone must not leave the others waiting. Rank 0 goes first where it can: it has written
 * the reason to the journal. */
static void leave(int rank, int ranks, int code)
{
    if (ranks == 1) return;
    if (rank > 0) nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
    tb_group_abort(code);
}

static int fail(int rank, int ranks, bool started)
{
    int code = tb_status_exit_code(tb_error_code());
    fprintf(stderr, "\nrank %d failed: %s\n", rank, tb_error_message());
    if (started) leave(rank, ranks, code);
    return code;
}

static int worker(const tb_args *args)
{
    int rank = tb_group_env_rank() > 0 ? tb_group_env_rank() : 0;
    const char *journal = tb_args_get(args, "journal"), *board_path = tb_args_get(args, "board");
    tb_launch *launch = NULL;
    tb_board *board = NULL;
    tb_group *world = NULL;
    int code = 0;
    if (!journal) {
        fprintf(stderr, "tb worker: --journal is missing; tb run starts workers\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    tb_log_set_rank(rank);
    tb_cpu_denormals_on();
    if (board_path && tb_board_open(board_path, &board) != TB_OK) return fail(rank, 1, false);
    tb_crash_handlers(rank, board && rank < board->ranks ? &board->slots[rank] : NULL);
    if (tb_journal_read(journal, &launch) != TB_OK) return fail(rank, 1, false);
    const tb_point *point = &launch->point;
    tb_topo topo;
    if (tb_topo_load(&topo) != TB_OK ||
        tb_bind_rank(&topo, rank, (int)point->ranks, (int)point->threads) != TB_OK ||
        tb_group_start(&world) != TB_OK)
        return fail(rank, 1, false);
    tb_execution e = {.point = point, .journal = journal, .group = world, .board = board, .topo = &topo,
                      .source_dir = tb_args_get(args, "source"), .traced = tb_args_has(args, "trace"),
                      .argc = args->argc, .argv = args->argv};
    if (tb_group_size(world) != point->ranks) {
        (void)TB_FAIL(TB_ERR_CONFIG, "%d ranks were started for a point of %lld", tb_group_size(world),
                      (long long)point->ranks);
        code = fail(rank, tb_group_size(world), true);
    } else if (tb_execute(&e, &code) != TB_OK) {
        code = fail(rank, tb_group_size(world), true);
    }
    tb_group_end(world);
    tb_board_close(board);
    tb_launch_free(launch);
    return code;
}

static const tb_option options[] = {
    {"journal", 0, "PATH", "the launch's journal, with its point record"},
    {"board", 0, "PATH", "shared page for progress and stop"},
    {"source", 0, "DIR", "source tree, for provenance"},
    {"trace", 0, NULL, "write a profile"},
};

TB_VERB(worker, .group = TB_VERB_INTERNAL, .args = "--journal PATH", .min_args = 0, .max_args = 0,
        .doc = "One rank of one launch; started by tb run", .options = options,
        .n_options = sizeof options / sizeof options[0], .run = worker);
