/* Starting mpirun, watching it, and saying what became of it. mpirun gets a process group of its own, so that
 * Ctrl-C reaches this program alone, and dies with it, so that a killed run leaves nothing behind. */
#include "launch.h"
#include "children.h"
#include "crash.h"
#include "flight.h"
#include "journal.h"
#include "tb_alloc.h"
#include "tb_cpu.h"
#include "tb_log.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { TAIL_BYTES = 64 << 10, TICK_MS = 100, ARGS_MAX = 32 };
static const double GRACE_S = 5;  /* between the polite and the last signal */
static const double ORPHAN_S = 1; /* for ranks that mpirun has told to end, once it is gone */

/* The last 64 KiB that the launch wrote to stdout and stderr. */
typedef struct tail {
    char *text;
    size_t size;
} tail;

typedef struct watch {
    const tb_launch_plan *plan;
    char *journal, *board_path;
    tb_board *board;
    tail log;
    pid_t child;
    int pipe;
    int64_t begin_ns, asked_ns; /* asked_ns: when it was asked to end; 0: not yet */
    bool timed_out, killed;
    int wait_status;
} watch;

char *tb_launch_journal_path(const tb_launch_plan *plan)
{
    return tb_asprintf("%s/%s.%lld.journal", plan->folder, plan->point->stem, (long long)plan->launch);
}

tb_point tb_launch_point(const tb_launch_plan *plan)
{
    const tb_experiment *e = plan->experiment;
    const char *slash = strrchr(plan->folder, '/');
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (tb_point){.experiment = e->name,
                      .driver = e->driver->name,
                      .profile = e->profile,
                      .hash = plan->point->hash,
                      .label = plan->point->label,
                      .config = plan->point->json,
                      .source = e->source,
                      .scope = plan->point->scope,
                      .run = slash ? slash + 1 : plan->folder,
                      .launch = plan->launch,
                      .launches = e->launches,
                      .ranks = plan->point->ranks,
                      .threads = plan->point->threads,
                      .seed = (int64_t)e->seed,
                      .question = e->question,
                      .plots = e->plots,
                      .utc_ns = now.tv_sec * 1000000000LL + now.tv_nsec};
}

/* ---- the child ---- */

static _Noreturn void become_mpirun(const watch *w, int output)
{
    char program[4096] = "", ranks[16], limit[32];
    const tb_launch_plan *p = w->plan;
    snprintf(ranks, sizeof ranks, "%d", p->point->ranks);
    snprintf(limit, sizeof limit, "%.0f",
             p->experiment->timeout_s + 2 * GRACE_S); /* should this program die */
    const char *args[ARGS_MAX] = {"mpirun",
                                  "--bind-to",
                                  "none",
                                  "--oversubscribe",
                                  "--timeout",
                                  limit,
                                  "-n",
                                  ranks,
                                  program,
                                  "worker",
                                  "--journal",
                                  w->journal,
                                  "--board",
                                  w->board_path,
                                  "--source",
                                  p->experiment->root,
                                  p->traced ? "--trace" : NULL};
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    int nothing = open("/dev/null", O_RDONLY);
    if (readlink("/proc/self/exe", program, sizeof program - 1) < 0 || nothing < 0) _exit(126);
    dup2(nothing, STDIN_FILENO);
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    if (geteuid() == 0) { /* mpirun asks root twice; the question is settled by who runs this program */
        setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
        setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    }
    char standard_path[256]; /* execvp() looks there too where PATH is unset, but mpirun then fails in its own words */
    if (!getenv("PATH") && confstr(_CS_PATH, standard_path, sizeof standard_path)) setenv("PATH", standard_path, 1);
    union {
        const char **in;
        char *const *out;
    } argv = {.in = args};
    execvp("mpirun", argv.out);
    dprintf(STDERR_FILENO, "mpirun: %s; the Debian package openmpi-bin has it\n", strerror(errno));
    _exit(127);
}

static tb_status start(watch *w)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) return TB_FAIL(TB_ERR_IO, "pipe: %s", strerror(errno));
    fflush(NULL);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    w->begin_ns = tb_now_ns();
    w->child = fork();
    if (w->child == 0) become_mpirun(w, ends[1]);
    close(ends[1]);
    w->pipe = ends[0];
    if (w->child < 0) return TB_FAIL(TB_ERR_IO, "fork: %s", strerror(errno));
    setpgid(w->child, w->child);
    return TB_OK;
}

/* ---- watching ---- */

static void keep_tail(tail *t, const char *data, size_t n)
{
    if (n > TAIL_BYTES) {
        data += n - TAIL_BYTES;
        n = TAIL_BYTES;
    }
    if (t->size + n > TAIL_BYTES) {
        size_t drop = t->size + n - TAIL_BYTES;
        memmove(t->text, t->text + drop, t->size - drop);
        t->size -= drop;
    }
    memcpy(t->text + t->size, data, n);
    t->size += n;
    t->text[t->size] = '\0';
}

/* False at the end of the launch's output. */
static bool read_output(watch *w)
{
    struct pollfd ready = {.fd = w->pipe, .events = POLLIN};
    if (poll(&ready, 1, TICK_MS) <= 0) return true; /* nothing yet, or a signal: the caller looks at both */
    char block[4096];
    ssize_t n = read(w->pipe, block, sizeof block);
    if (n > 0) keep_tail(&w->log, block, (size_t)n);
    return n > 0 || (n < 0 && errno == EINTR);
}

static double seconds_since(int64_t ns) { return (double)(tb_now_ns() - ns) * 1e-9; }

/* Ends the launch when its time is up or the user wants it: by the board, then SIGTERM, then SIGKILL. */
static void press(watch *w)
{
    int interrupts = *w->plan->interrupts;
    bool late = seconds_since(w->begin_ns) > w->plan->experiment->timeout_s;
    if (!w->asked_ns && (late || interrupts)) {
        w->asked_ns = tb_now_ns();
        w->timed_out = late;
        atomic_store(&w->board->stop, 1);
        if (late) kill(-w->child, SIGTERM);
    }
    if (!w->asked_ns || w->killed) return;
    if (interrupts > 1 || seconds_since(w->asked_ns) > 2 * GRACE_S) {
        kill(-w->child, SIGKILL);
        w->killed = true;
    } else if (seconds_since(w->asked_ns) > GRACE_S) {
        kill(-w->child, SIGTERM);
    }
}

/* Ranks that mpirun told to end may outlive it. They are this process's children then (start() makes it a subreaper):
 * they have a second, are killed after it, and are gone before anybody is told that the launch is over. */
static void wait_for_orphans(void)
{
    int64_t begin_ns = tb_now_ns();
    for (pid_t gone; (gone = waitpid(-1, NULL, WNOHANG)) >= 0 && seconds_since(begin_ns) < GRACE_S;) {
        pid_t children[64];
        if (gone > 0) continue;
        int n = seconds_since(begin_ns) > ORPHAN_S ? tb_children(children, 64) : 0;
        for (int i = 0; i < n; i++) kill(children[i], SIGKILL);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

static void watch_to_the_end(watch *w)
{
    bool open = true;
    int64_t ticked_ns = 0;
    for (pid_t done = 0; done == 0;) {
        if (open) open = read_output(w);
        else nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        press(w);
        if (w->plan->tick && seconds_since(ticked_ns) > TICK_MS * 1e-3) {
            w->plan->tick(w->plan->tick_arg, w->board);
            ticked_ns = tb_now_ns();
        }
        done = waitpid(w->child, &w->wait_status, WNOHANG);
    }
    struct pollfd ready = {.fd = w->pipe, .events = POLLIN};
    while (open && poll(&ready, 1, 0) > 0) open = read_output(w);
    wait_for_orphans();
}

/* ---- what became of it ---- */

/* The line of the log that starts with "rank N <verb>", into `out`; -1 when there is none, else N. */
static int find_line(const char *log, const char *verb, char *out, size_t bytes)
{
    for (const char *at = log; (at = strstr(at, "rank ")); at++) {
        if (at > log && at[-1] != '\n') continue;
        char *end;
        long rank = strtol(at + 5, &end, 10);
        if (end == at + 5 || strncmp(end, verb, strlen(verb)) != 0) continue;
        snprintf(out, bytes, "%.*s", (int)strcspn(at, "\n"), at);
        return (int)rank;
    }
    return -1;
}

/* mpirun: "... process rank 1 with PID 123 on node x exited on signal 9 (Killed)." */
static bool find_killed(const char *log, int *rank, int *signal)
{
    const char *at = strstr(log, "process rank "), *on = at ? strstr(at, "exited on signal ") : NULL;
    if (!on) return false;
    *rank = atoi(at + strlen("process rank "));
    *signal = atoi(on + strlen("exited on signal "));
    return true;
}

/* mpirun: "Process name: [[2750,1],1]" and "Exit code: 7": rank 1 left without saying why. */
static bool find_exited(const char *log, int *rank, int *code)
{
    const char *at = strstr(log, "Process name: [["), *on = at ? strstr(at, "Exit code:") : NULL;
    const char *comma = on ? strstr(at, "],") : NULL;
    if (!comma || comma > on) return false;
    *rank = atoi(comma + 2);
    *code = atoi(on + strlen("Exit code:"));
    return *rank >= 0;
}

static void last_line(const char *log, char *out, size_t bytes)
{
    size_t end = strlen(log);
    while (end > 0 && log[end - 1] == '\n') end--;
    size_t begin = end;
    while (begin > 0 && log[begin - 1] != '\n') begin--;
    snprintf(out, bytes, "%.*s", (int)(end - begin), log + begin);
}

static void explain(const watch *w, tb_end *end, char *reason, size_t bytes)
{
    int code = WIFEXITED(w->wait_status) ? WEXITSTATUS(w->wait_status) : 128 + WTERMSIG(w->wait_status);
    int rank = -1, signal = code > 128 ? code - 128 : 0;
    char where[96];
    *end = (tb_end){
        .status = "failed", .reason = reason, .exit_code = code, .signal = signal, .failed_rank = -1};
    if (w->timed_out || code == 110) {
        tb_board_describe(&w->board->slots[0], where, sizeof where);
        snprintf(reason, bytes, "timed out after %.0f s; rank 0 was in %s", seconds_since(w->begin_ns),
                 where);
        end->status = "timeout";
    } else if (w->asked_ns) {
        snprintf(reason, bytes, "interrupted before the launch could end by itself");
        end->status = "interrupted";
    } else if ((rank = find_line(w->log.text, " died", reason, bytes)) >= 0) {
        end->failed_rank = rank;
    } else if (find_killed(w->log.text, &rank, &signal)) {
        tb_board_describe(&w->board->slots[rank < w->board->ranks ? rank : 0], where, sizeof where);
        snprintf(reason, bytes, "rank %d died: %s in %s", rank, tb_signal_name(signal), where);
        end->failed_rank = rank;
        end->signal = signal;
    } else if ((rank = find_line(w->log.text, " failed", reason, bytes)) >= 0) {
        end->failed_rank = rank;
    } else if (find_exited(w->log.text, &rank, &code)) {
        tb_board_describe(&w->board->slots[rank < w->board->ranks ? rank : 0], where, sizeof where);
        snprintf(reason, bytes, "rank %d ended by itself with exit code %d in %s", rank, code, where);
        end->failed_rank = rank;
    } else {
        last_line(w->log.text, where, sizeof where);
        snprintf(reason, bytes, "mpirun ended with code %d before the launch was complete: %s", code, where);
    }
}

/* The rank that the flight records find goes into the sentence, unless that names it with its operation already. */
static void add_culprit(const watch *w, tb_journal *journal, tb_end *end, char *reason, size_t bytes)
{
    tb_text report = {0};
    tb_culprit culprit;
    char sentence[256], *prefix = tb_flight_prefix(w->journal);
    if (prefix && tb_flight_tell(prefix, &report, sentence, sizeof sentence, &culprit)) {
        size_t n = strlen(reason);
        if (*sentence) snprintf(reason + n, bytes - n, "; %s", sentence);
        if (culprit.rank >= 0) end->failed_rank = culprit.rank;
        if (tb_journal_artefact(journal, &(tb_artefact){"flight", tb_text_str(&report), -1}) != TB_OK)
            tb_log_write(TB_LOG_WARN, "%s", tb_error_message());
    }
    tb_text_free(&report);
    tb_free(prefix);
}

/* Warnings of the ranks, as that one was slow, are worth a line although all went well; what every launch says (a peer
 * is missing), one a run. */
static void pass_on_warnings(const watch *w)
{
    tb_text *told = w->plan->told;
    for (const char *at = w->log.text; *at; at += strcspn(at, "\n"), at += *at == '\n') {
        int length = (int)strcspn(at, "\n");
        const char *behind = strncmp(at, "tb[rank ", 8) == 0 ? strchr(at, ']') : NULL;
        char line[1200];
        snprintf(line, sizeof line, "%.*s\n", length, at);
        if (!behind || strncmp(behind, "] warn: ", 8) != 0 || (told && strstr(tb_text_str(told), line))) continue;
        fputs(line, stderr);
        if (told) tb_text_add(told, "%s", line);
    }
}

/* The journal's own end counts; where the launch left none, or failed, it is written now, with the log's tail and the
 * culprit. */
static tb_status conclude(watch *w, tb_outcome *out)
{
    tb_launch *launch = NULL;
    tb_journal *journal = NULL;
    tb_end end;
    TB_TRY(tb_journal_read(w->journal, &launch));
    bool ended = strcmp(launch->end.status, "running") != 0, failed = strcmp(launch->end.status, "failed") == 0;
    snprintf(out->status, sizeof out->status, "%s", launch->end.status);
    snprintf(out->reason, sizeof out->reason, "%s", launch->end.reason);
    end = launch->end;
    tb_launch_free(launch);
    bool clean =
        WIFEXITED(w->wait_status) && (WEXITSTATUS(w->wait_status) == 0 || strcmp(out->status, "ok") != 0);
    if (ended && !clean)
        tb_log_write(TB_LOG_WARN, "%s: the launch is complete, but mpirun ended with wait status %d",
                     w->journal, w->wait_status);
    if (ended && !failed) {
        pass_on_warnings(w);
        tb_flight_remove(w->journal, w->plan->point->ranks);
        return TB_OK;
    }
    int rank, signal;
    if (!failed || find_killed(w->log.text, &rank, &signal))
        explain(w, &end, out->reason, sizeof out->reason);
    else
        end.status = "failed";
    end.reason = out->reason;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    end.utc_ns = now.tv_sec * 1000000000LL + now.tv_nsec;
    snprintf(out->status, sizeof out->status, "%s", end.status);
    TB_TRY(tb_journal_open(w->journal, &journal));
    tb_status st = w->log.size ? tb_journal_artefact(journal, &(tb_artefact){"log", w->log.text, -1}) : TB_OK;
    add_culprit(w, journal, &end, out->reason, sizeof out->reason);
    if (st == TB_OK) st = tb_journal_end(journal, &end);
    tb_status closed = tb_journal_close(journal);
    return st != TB_OK ? st : closed;
}

tb_status tb_launch_run(const tb_launch_plan *plan, tb_outcome *out)
{
    tb_status st = TB_OK;
    watch w = {.plan = plan, .pipe = -1};
    tb_point point = tb_launch_point(plan);
    tb_journal *journal = NULL;
    *out = (tb_outcome){.status = "failed"};
    w.journal = tb_launch_journal_path(plan);
    w.board_path = tb_asprintf("%s/%s.board", plan->folder, plan->point->stem);
    w.log.text = tb_calloc(1, TAIL_BYTES + 1);
    if (!w.journal || !w.board_path || !w.log.text) TB_GO(TB_ERR_OOM);
    TB_GO(tb_board_create(w.board_path, plan->point->ranks, &w.board));
    TB_GO(tb_journal_create(w.journal, &point, &journal));
    TB_GO(tb_journal_close(journal));
    TB_GO(start(&w));
    watch_to_the_end(&w);
    out->seconds = seconds_since(w.begin_ns);
    st = conclude(&w, out);
cleanup:
    if (w.pipe >= 0) close(w.pipe);
    tb_board_close(w.board);
    if (w.board_path) unlink(w.board_path);
    tb_free(w.journal);
    tb_free(w.board_path);
    tb_free(w.log.text);
    return st;
}
