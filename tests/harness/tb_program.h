/* Running the real program from tests: in a scratch folder of its own, with its exit code and output. */
#pragma once
#include "tb_alloc.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

typedef struct program_run {
    int exit_code;        /* 128 + signal when it was killed */
    char output[1 << 16]; /* stdout and stderr */
} program_run;

/* A fresh folder with an empty experiments/; the test's working folder from then on. */
static inline void enter_scratch(void)
{
    char folder[] = "/tmp/tb-test-XXXXXX";
    assert_non_null(mkdtemp(folder));
    assert_int_equal(chdir(folder), 0);
    assert_int_equal(mkdir("experiments", 0755), 0);
}

static inline void leave_scratch(void)
{
    char folder[256], command[300];
    assert_non_null(getcwd(folder, sizeof folder));
    assert_int_equal(strncmp(folder, "/tmp/tb-test-", 13), 0);
    assert_int_equal(chdir("/tmp"), 0);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    assert_int_equal(system(command), 0);
}

static inline int scratch_setup(void **state)
{
    (void)state;
    enter_scratch();
    return 0;
}

static inline int scratch_teardown(void **state)
{
    (void)state;
    leave_scratch();
    return 0;
}

/* A test in a scratch folder of its own. */
#define IN_SCRATCH(test) cmocka_unit_test_setup_teardown(test, scratch_setup, scratch_teardown)

static inline void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
    assert_int_equal(fclose(file), 0);
}

/* Starts "tb <arguments>" by the shell in a process group of its own; output goes to the file "output". */
static inline pid_t start_program(const char *arguments)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child > 0) return child;
    setpgid(0, 0);
    int out = open("output", O_WRONLY | O_CREAT | O_TRUNC, 0644);
    dup2(out, STDOUT_FILENO);
    dup2(out, STDERR_FILENO);
    char command[2048];
    snprintf(command, sizeof command, "exec %s/tb %s", TB_BINARY_DIR, arguments);
    execl("/bin/sh", "sh", "-c", command, NULL);
    _exit(127);
}

static inline program_run wait_program(pid_t child)
{
    program_run run = {0};
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
    run.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    FILE *file = fopen("output", "r");
    assert_non_null(file);
    size_t n = fread(run.output, 1, sizeof run.output - 1, file);
    run.output[n] = '\0';
    fclose(file);
    return run;
}

static inline program_run run_program(const char *arguments)
{
    return wait_program(start_program(arguments));
}

static inline void expect(const program_run *run, int exit_code, const char *sentence)
{
    if (run->exit_code != exit_code)
        fail_msg("exit code %d, wanted %d; it said:\n%s", run->exit_code, exit_code, run->output);
    if (!strstr(run->output, sentence)) fail_msg("wanted '%s' in:\n%s", sentence, run->output);
}

static inline void sleep_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}
