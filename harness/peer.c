/* Peers as child processes behind two pipes. */
#include "peer.h"
#include "experiment.h"
#include "tb_alloc.h"
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_ARGS = 16 };

struct tb_peer {
    pid_t pid;
    FILE *ask, *answer;
    bool rests;
    char script[64];
};

static tb_status spawn(tb_peer *p, const char *path, char *const *args)
{
    int in[2], out[2];
    char *argv[MOST_ARGS + 2] = {(char *)(uintptr_t)path};
    for (int i = 0; args[i] && i < MOST_ARGS; i++) argv[i + 1] = args[i];
    /* Closed in the next peers: one that held this one's input open would keep it from ending. */
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0)
        return TB_FAIL(TB_ERR_IO, "peer %s: no pipe", p->script);
    p->pid = fork();
    if (p->pid < 0) return TB_FAIL(TB_ERR_IO, "peer %s: no process", p->script);
    if (p->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* one at rest would not notice that its input ended */
        dup2(in[0], 0);
        dup2(out[1], 1);
        close(in[1]);
        close(out[0]);
        execv(path, argv);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    p->ask = fdopen(in[1], "w");
    p->answer = fdopen(out[0], "r");
    return p->ask && p->answer ? TB_OK : TB_ERR_OOM;
}

static tb_status ended(const tb_peer *p)
{
    return TB_FAIL(TB_ERR_NOT_FOUND, "peer %s ended unasked; are its packages here? scripts/dev setup installs them",
                   p->script);
}

tb_status tb_peer_start(const char *script, char *const *args, tb_peer **out, char version[64])
{
    char line[512], *root = NULL, *path = NULL;
    tb_peer *p = *out = tb_calloc(1, sizeof *p);
    if (!p) return TB_ERR_OOM;
    snprintf(p->script, sizeof p->script, "%s", script);
    tb_status st = tb_experiment_root(&root);
    if (st == TB_OK && !(path = tb_asprintf("%s/scripts/peers/%s", root, script))) st = TB_ERR_OOM;
    if (st == TB_OK) st = spawn(p, path, args);
    if (st == TB_OK && !fgets(line, sizeof line, p->answer)) st = ended(p);
    if (st == TB_OK) line[strcspn(line, "\n")] = '\0';
    if (st == TB_OK && strncmp(line, "cannot ", 7) == 0)
        st = TB_FAIL(TB_ERR_NOT_FOUND, "%s", line + 7);
    else if (st == TB_OK && sscanf(line, "ready %63s", version) != 1)
        st = TB_FAIL(TB_ERR_PARSE, "peer %s: '%s' is not 'ready VERSION'", script, line);
    tb_free(path);
    tb_free(root);
    return st;
}

void tb_peer_rest(tb_peer *p) { p->rests = kill(p->pid, SIGSTOP) == 0; }

static void wake(tb_peer *p)
{
    if (p->rests) kill(p->pid, SIGCONT);
    p->rests = false;
}

static tb_status ask(tb_peer *p, const char *question, double *ms)
{
    char line[128];
    wake(p);
    if (fputs(question, p->ask) < 0 || fflush(p->ask) != 0 || !fgets(line, sizeof line, p->answer)) return ended(p);
    *ms = strtod(line, NULL);
    return *ms > 0 ? TB_OK : TB_FAIL(TB_ERR_PARSE, "peer %s: '%s' is no time", p->script, line);
}

tb_status tb_peer_iterate(tb_peer *p, double *ms) { return ask(p, "go\n", ms); }

tb_status tb_peer_repeat(tb_peer *p, int64_t times, double *ms)
{
    char question[32];
    snprintf(question, sizeof question, "%lld\n", (long long)times);
    return ask(p, question, ms);
}

pid_t tb_peer_pid(const tb_peer *p) { return p->pid; }

void tb_peer_stop(tb_peer *p)
{
    if (!p) return;
    wake(p);
    if (p->ask) fclose(p->ask);
    if (p->answer) fclose(p->answer);
    if (p->pid > 0) waitpid(p->pid, NULL, 0);
    tb_free(p);
}
