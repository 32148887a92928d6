/* Starting `tb run` or mpirun with a fault, and examining what it leaves: words, processes, shared memory. */
#include "struck_program.h"
#include "experiment.h"
#include "flight.h"
#include "leftovers.h"
#include "tb_alloc.h"
#include "tb_cpu.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ARGS = 32, OUTPUT_BYTES = 1 << 16, LIMIT_S = 60 };
static const char shared_folder[] = "/dev/shm";
extern char **environ;

typedef struct trial {
    const tb_struck_plan *plan;
    char folder[64], results[80], program[4096];
    char *experiment;
    char output[OUTPUT_BYTES];
    int exit_code; /* -1: it did not end */
    int64_t end_ns;
} trial;

/* ---- running it ---- */
/* What mpirun told this process would make another mpirun believe that it is one of its ranks. */
static void forget_mpirun(void)
{
    for (char **e = environ; *e;) {
        char name[128];
        bool theirs = strncmp(*e, "OMPI_", 5) == 0 || strncmp(*e, "PMIX_", 5) == 0 || strncmp(*e, "ORTE_", 5) == 0;
        snprintf(name, sizeof name, "%.*s", (int)strcspn(*e, "="), *e);
        if (theirs && unsetenv(name) == 0)
            e = environ;
        else
            e++;
    }
    if (geteuid() != 0) return;
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
}

static _Noreturn void become(const char *const *words, int output)
{
    union {
        const char *const *in;
        char *const *out;
    } argv = {.in = words};
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    setpgid(0, 0);
    forget_mpirun();
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    execvp(words[0], argv.out);
    _exit(127);
}

static void read_back(trial *t, int output)
{
    size_t have = strlen(t->output);
    ssize_t n = pread(output, t->output + have, sizeof t->output - 1 - have, 0);
    t->output[have + (n > 0 ? (size_t)n : 0)] = '\0';
}

/* Runs to its end, or to the limit. The output is added to t->output. */
static tb_status execute(trial *t, const char *const *words)
{
    char path[] = "/tmp/tb-struck-XXXXXX";
    int output = mkostemp(path, O_CLOEXEC), status = 0;
    if (output < 0) return TB_FAIL(TB_ERR_IO, "%s: %s", path, strerror(errno));
    unlink(path);
    int64_t begin_ns = tb_now_ns();
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) become(words, output);
    pid_t gone = child < 0 ? child : 0;
    while (gone == 0 && tb_now_ns() - begin_ns < LIMIT_S * INT64_C(1000000000)) {
        gone = waitpid(child, &status, WNOHANG);
        if (gone == 0) nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    t->end_ns = tb_now_ns();
    t->exit_code = gone == child ? (WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status)) : -1;
    if (child > 0 && gone == 0) {
        kill(-child, SIGKILL);
        waitpid(child, &status, 0);
    }
    read_back(t, output);
    close(output);
    return child < 0 ? TB_FAIL(TB_ERR_IO, "fork: %s", strerror(errno)) : TB_OK;
}

static tb_status start(trial *t)
{
    const tb_struck_plan *p = t->plan;
    char ranks[16], set_ranks[32], fault[80], backend[48], deadline[48];
    const char *words[ARGS];
    int n = 0;
    snprintf(ranks, sizeof ranks, "%d", p->ranks);
    snprintf(set_ranks, sizeof set_ranks, "launch.ranks=%d", p->ranks);
    snprintf(fault, sizeof fault, "launch.fault=%s", p->fault);
    snprintf(backend, sizeof backend, "params.backend=%s", p->backend);
    snprintf(deadline, sizeof deadline, "launch.deadline_s=%g", p->deadline_s);
    const char *const launcher[] = {"mpirun", "--oversubscribe", "--bind-to", "none", "-n", ranks};
    const char *const command[] = {t->program, "run", t->experiment, "--out", t->results, "-s",    set_ranks,
                                   "-s",       fault, "-s",          backend, "-s",       deadline};
    for (size_t i = 0; p->direct && i < sizeof launcher / sizeof *launcher; i++) words[n++] = launcher[i];
    for (size_t i = 0; i < sizeof command / sizeof *command; i++) words[n++] = command[i];
    if (strcmp(p->work, "fused") == 0) {
        words[n++] = "-s";
        words[n++] = "params.update=fused";
    }
    words[n] = NULL;
    TB_TRY(execute(t, words));
    if (!p->direct) return TB_OK;
    trial show = *t;
    const char *const look[] = {t->program, "show", t->results, NULL};
    TB_TRY(execute(&show, look));
    memcpy(t->output, show.output, sizeof t->output);
    return TB_OK;
}

/* ---- what it left ---- */
bool tb_struck_left_arena(pid_t maker)
{
    char name[48];
    snprintf(name, sizeof name, "memfd:tensorbrain-%d ", maker);
    return tb_leftovers_is_mapped(name);
}

/* Files of others (MPI's) made since `since` that no process maps: their runs may go on beside this one. */
static bool left_files(int64_t since_s)
{
    DIR *dir = opendir(shared_folder);
    bool found = false;
    for (const struct dirent *e; dir && !found && (e = readdir(dir));) {
        char path[320];
        struct stat info;
        snprintf(path, sizeof path, "%s/%s", shared_folder, e->d_name);
        if (e->d_name[0] == '.' || stat(path, &info) != 0 || info.st_mtime < since_s) continue;
        found = !tb_leftovers_is_mapped(path) && stat(path, &info) == 0;
    }
    if (dir) closedir(dir);
    return found;
}

/* One that has ended and waits for its parent to look is gone. */
static bool is_alive(pid_t pid)
{
    char path[64], state = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *f = fopen(path, "r");
    bool read = f && fscanf(f, "%*d (%*[^)]) %c", &state) == 1;
    if (f) fclose(f);
    return read && state != 'Z' && state != 'X';
}

/* "rank 1 (process 1234): ..." of a flight report, of all ranks. */
static bool none_is(const char *report, bool (*what)(pid_t pid))
{
    for (const char *at = report; (at = strstr(at, "(process ")); at++) {
        pid_t pid = atoi(at + strlen("(process "));
        if (pid > 0 && what(pid)) return false;
    }
    return true;
}

static char *find_prefix(const trial *t)
{
    static const char last[] = ".flight.0";
    char *prefix = NULL;
    DIR *dir = opendir(t->results);
    for (const struct dirent *e; dir && !prefix && (e = readdir(dir));) {
        size_t n = strlen(e->d_name);
        if (n > strlen(last) && strcmp(e->d_name + n - strlen(last), last) == 0)
            prefix = tb_asprintf("%s/%.*s", t->results, (int)(n - strlen(".0")), e->d_name);
    }
    if (dir) closedir(dir);
    return prefix;
}

/* The line of the output that holds `part`. */
static bool quote(const trial *t, const char *part, tb_struck *out)
{
    const char *at = *part ? strstr(t->output, part) : NULL;
    if (!at) return false;
    const char *begin = at;
    while (begin > t->output && begin[-1] != '\n') begin--;
    snprintf(out->sentence, sizeof out->sentence, "%.*s", (int)strcspn(begin, "\n"), begin);
    return true;
}

/* A rank that is late is told by those that wait for it; the run ends well. */
static void examine_alive(const trial *t, tb_struck *out)
{
    char who[64];
    snprintf(who, sizeof who, "for rank %d, which is slow", t->plan->victim);
    out->ended = t->exit_code == 0;
    out->named = quote(t, who, out);
    out->struck = out->named;
    const char *op = out->named ? strstr(out->sentence, " of ") : NULL; /* "rank 0 of 2: allreduce ... waited" */
    const char *begin = op ? strstr(op, ": ") : NULL, *end = begin ? strstr(begin, " waited ") : NULL;
    if (end) snprintf(out->doing, sizeof out->doing, "%.*s", (int)(end - begin - 2), begin + 2);
}

static void examine_dead(const trial *t, tb_struck *out)
{
    const tb_struck_plan *p = t->plan;
    tb_text report = {0};
    tb_culprit culprit;
    char sentence[256], *prefix = find_prefix(t);
    if (prefix && tb_flight_tell(prefix, &report, sentence, sizeof sentence, &culprit)) {
        out->struck = true;
        bool right = culprit.rank == p->victim || (p->disputable && culprit.other == p->victim);
        out->named = right && *culprit.doing && quote(t, sentence, out);
        snprintf(out->doing, sizeof out->doing, "%s", culprit.doing);
        out->gone_s = (double)(t->end_ns - culprit.since_ns) * 1e-9 - p->deadline_s;
        out->ended = t->exit_code > 0 && none_is(tb_text_str(&report), is_alive);
        out->left_behind = !none_is(tb_text_str(&report), tb_struck_left_arena);
    }
    if (!out->named) snprintf(out->sentence, sizeof out->sentence, "%.600s\n%.900s", t->output, tb_text_str(&report));
    tb_text_free(&report);
    tb_free(prefix);
}

static void remove_folder(const char *path)
{
    DIR *dir = opendir(path);
    for (const struct dirent *e; dir && (e = readdir(dir));) {
        char *inner = e->d_name[0] == '.' ? NULL : tb_asprintf("%s/%s", path, e->d_name);
        if (inner && unlink(inner) != 0) remove_folder(inner);
        tb_free(inner);
    }
    if (dir) closedir(dir);
    rmdir(path);
}

tb_status tb_struck_program(const tb_struck_plan *plan, tb_struck *out)
{
    trial *t = tb_calloc(1, sizeof *t);
    char *root = NULL;
    struct timespec now;
    tb_status st = TB_OK;
    *out = (tb_struck){0};
    if (!t) return TB_ERR_OOM;
    t->plan = plan;
    snprintf(t->folder, sizeof t->folder, "/tmp/tb-struck-XXXXXX");
    TB_GO(tb_experiment_root(&root));
    const char *file = strcmp(plan->work, "fused") == 0 ? "ddp" : plan->work;
    if (!(t->experiment = tb_asprintf("%s/experiments/common/fault_%s.yaml", root, file))) TB_GO(TB_ERR_OOM);
    if (readlink("/proc/self/exe", t->program, sizeof t->program - 1) < 0 || !mkdtemp(t->folder))
        TB_GO(TB_FAIL(TB_ERR_IO, "%s: %s", t->folder, strerror(errno)));
    snprintf(t->results, sizeof t->results, "%s/out", t->folder);
    clock_gettime(CLOCK_REALTIME, &now);
    TB_GO(start(t));
    if (plan->lives)
        examine_alive(t, out);
    else
        examine_dead(t, out);
    out->left_behind |= left_files(now.tv_sec);
cleanup:
    if (t->results[0]) remove_folder(t->folder);
    tb_free(t->experiment);
    tb_free(t);
    tb_free(root);
    return st;
}
