/* Crash handlers. The state they read is set once, before they are installed; the board's slot is this rank's
 * own. */
#include "crash.h"
#include "tb_cpu.h"
#include <signal.h>
#include <string.h>
#include <unistd.h>

static int crash_rank;
static const tb_board_slot *crash_slot;
static _Atomic(_Atomic int64_t *) excuse;

const char *tb_signal_name(int signal)
{
    static _Thread_local char name[16];
    const char *known = sigabbrev_np(signal); /* a table; no lock, no heap */
    if (known)
        snprintf(name, sizeof name, "SIG%s", known);
    else
        snprintf(name, sizeof name, "signal %d", signal);
    return name;
}

/* snprintf is not on the list of async-signal-safe functions; glibc's needs no lock and no heap for %d and
 * %s, and the process is about to die. */
static void tell_and_die(int signal)
{
    char where[96] = "start-up", line[192];
    if (crash_slot) tb_board_describe(crash_slot, where, sizeof where);
    int n =
        snprintf(line, sizeof line, "\nrank %d died: %s in %s\n", crash_rank, tb_signal_name(signal), where);
    ssize_t written = write(STDERR_FILENO, line, (size_t)n);
    (void)written;
    raise(signal); /* SA_RESETHAND has put the default back: the exit status tells the truth */
}

void tb_crash_excuse_by(_Atomic int64_t *word) { excuse = word; }

void tb_crash_excuse(void)
{
    _Atomic int64_t *word = excuse;
    int64_t not_yet = 0;
    if (word) atomic_compare_exchange_strong(word, &not_yet, tb_now_ns());
}

static void excuse_and_die(int signal)
{
    tb_crash_excuse();
    raise(signal); /* as above */
}

void tb_crash_handlers(int rank, const tb_board_slot *slot)
{
    crash_rank = rank;
    crash_slot = slot;
    static const int caught[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    struct sigaction action = {.sa_handler = tell_and_die, .sa_flags = (int)SA_RESETHAND | SA_NODEFER};
    for (size_t i = 0; i < sizeof caught / sizeof caught[0]; i++) sigaction(caught[i], &action, NULL);
    struct sigaction was, term = action;
    term.sa_handler = excuse_and_die;
    if (sigaction(SIGTERM, NULL, &was) == 0 && was.sa_handler == SIG_DFL) sigaction(SIGTERM, &term, NULL);
}
