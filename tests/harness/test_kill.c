/* SIGKILL at random moments of a run, of the program or of its worker: what a reader saw before is there
 * afterwards, the samples have no gap, nothing is damaged, and --resume finishes. TB_KILLS sets how many
 * (20). */
#include "journal.h"
#include "leftovers.h"
#include "tb_program.h"
#include "tb_rng.h"
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

static bool find_journal(char *path, size_t bytes)
{
    DIR *dir = opendir("out");
    bool found = false;
    for (const struct dirent *entry; dir && !found && (entry = readdir(dir));) {
        size_t n = strlen(entry->d_name);
        found = n > 8 && strcmp(entry->d_name + n - 8, ".journal") == 0;
        if (found) snprintf(path, bytes, "out/%s", entry->d_name);
    }
    if (dir) closedir(dir);
    return found;
}

/* Records of all kinds in the journal; checks on the way that steps count up without a gap. -1: no journal
 * yet. */
static int64_t count_records(void)
{
    char path[600];
    tb_launch *l = NULL;
    if (!find_journal(path, sizeof path) || tb_journal_read(path, &l) != TB_OK) return -1;
    assert_int_equal(l->damaged_records, 0);
    int64_t n = l->n_facts + l->n_metrics + l->n_values + l->n_artefacts + l->n_checks, expected = 0;
    for (int64_t warm = 1; warm >= 0; warm--) {
        const tb_series *s = tb_launch_series(l, "iter_ms", 0, warm);
        for (int64_t i = 0; s && i < s->n; i++) assert_int_equal(s->steps[i], expected++);
    }
    tb_launch_free(l);
    return n + expected;
}

/* The worker that writes into this test's folder; 0 when there is none. */
static pid_t find_worker(void)
{
    char here[256];
    assert_non_null(getcwd(here, sizeof here));
    DIR *proc = opendir("/proc");
    pid_t found = 0;
    for (const struct dirent *entry; !found && (entry = readdir(proc));) {
        char path[300], line[2048] = "", folder[300] = "";
        if (!isdigit((unsigned char)entry->d_name[0])) continue;
        snprintf(path, sizeof path, "/proc/%s/cwd", entry->d_name);
        if (readlink(path, folder, sizeof folder - 1) < 0 || strcmp(folder, here) != 0) continue;
        snprintf(path, sizeof path, "/proc/%s/cmdline", entry->d_name);
        FILE *file = fopen(path, "r");
        size_t n = file ? fread(line, 1, sizeof line - 1, file) : 0;
        if (file) fclose(file);
        const char *program = strrchr(line, '/');
        bool is_tb = n > strlen(line) + 1 && program && strcmp(program, "/tb") == 0;
        if (is_tb && strcmp(line + strlen(line) + 1, "worker") == 0) found = (pid_t)atoi(entry->d_name);
    }
    closedir(proc);
    return found;
}

typedef struct tally {
    int workers, with_records;
} tally;

static void kill_once(int n, tally *t)
{
    pid_t child = start_program("run x --out out");
    sleep_ms((int)(200 + tb_random_below(11, 1, (uint64_t)n, 2200)));
    int64_t seen = count_records();
    pid_t worker = find_worker();
    bool kill_worker = n % 2 == 1 && worker > 0;
    kill(kill_worker ? worker : child, SIGKILL);
    t->workers += kill_worker;
    t->with_records += seen > 20;
    program_run run = wait_program(child);
    for (int i = 0; i < 100 && find_worker(); i++) sleep_ms(100);
    assert_int_equal(find_worker(), 0); /* nothing is left behind */
    int64_t kept = count_records();
    if (kept < seen)
        fail_msg("kill %d of the %s (exit %d): %lld records before, %lld after: %s", n,
                 kill_worker ? "worker" : "program", run.exit_code, (long long)seen, (long long)kept, run.output);
    if (kill_worker && run.exit_code != 0) expect(&run, 3, "rank 0 died: SIGKILL in ");
    if (!kill_worker && run.exit_code != 0) assert_int_equal(run.exit_code, 128 + SIGKILL);
    assert_int_equal(system("rm -rf out"), 0);
}

static void no_complete_record_is_lost(void **state)
{
    (void)state;
    int kills = getenv("TB_KILLS") ? atoi(getenv("TB_KILLS")) : 20;
    write_file("experiments/x.yaml",
               "driver: 'null'\nmeasure: {launches: 1, min_iters: 10, min_s: 20, warmup_s: 0.1}\n"
               "params: {work_us: 200}\n");
    assert_true(kills > 0);
    tally t = {0};
    for (int n = 0; n < kills; n++) kill_once(n, &t);
    assert_true(t.workers > kills / 5 &&
                t.with_records > kills / 5); /* else the kills came too early to tell */
}

static void a_killed_run_can_be_resumed(void **state)
{
    (void)state;
    write_file("experiments/x.yaml",
               "driver: 'null'\nmeasure: {launches: 2, min_iters: 10, min_s: 1, warmup_s: 0}\n"
               "params: {work_us: 200}\n");
    pid_t child = start_program("run x --out out");
    for (int i = 0; i < 100 && count_records() < 50; i++) sleep_ms(100);
    kill(child, SIGKILL);
    wait_program(child);
    for (int i = 0; i < 100 && find_worker(); i++) sleep_ms(100);
    program_run run = run_program("run x --out out --resume");
    expect(&run, 0, "1 of 1 points ok");
}

/* A segment of one page, last written so long ago; mapped, or NULL. */
static void *make_segment(const char *path, int age_s, bool mapped)
{
    const struct timespec then = {.tv_sec = time(NULL) - age_s}, times[] = {then, then};
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0 && ftruncate(fd, 4096) == 0);
    void *at = mapped ? mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) : NULL;
    assert_true(at != MAP_FAILED && futimens(fd, times) == 0);
    close(fd);
    return at;
}

static void segments_of_a_killed_mpirun_are_removed(void **state)
{
    (void)state;
    char folder[] = "/tmp/tb_left_XXXXXX", host[64] = "", path[4][160];
    assert_non_null(mkdtemp(folder));
    gethostname(host, sizeof host - 1);
    for (int i = 0; i < 4; i++)
        snprintf(path[i], sizeof path[i], "%s/vader_segment.%s%s.0.%d.0", folder, host, i == 3 ? "2" : "", i);
    (void)make_segment(path[0], 60, false);
    void *mapped = make_segment(path[1], 60, true);
    (void)make_segment(path[2], 0, false);  /* may be about to be mapped */
    (void)make_segment(path[3], 60, false); /* another host's */
    tb_leftovers_remove(folder);
    for (int i = 0; i < 4; i++) assert_int_equal(access(path[i], F_OK) == 0, i > 0);
    munmap(mapped, 4096);
    for (int i = 1; i < 4; i++) unlink(path[i]);
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_SCRATCH(no_complete_record_is_lost),
        IN_SCRATCH(a_killed_run_can_be_resumed),
        cmocka_unit_test(segments_of_a_killed_mpirun_are_removed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
