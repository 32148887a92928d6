/* A client that others wrote does what it does elsewhere (oip_client.py); it lives in .venv-peers, which
 * `scripts/dev test --full` makes. */
#include "live_server.h"
#include <sys/wait.h>

enum { ROWS = 5, COLUMNS = 4, CLASSES = 3 };

static void an_existing_client_works_unchanged(void **state)
{
    (void)state;
    const char *python = getenv("TB_PEERS_PYTHON");
    char command[512];
    live l = {.in = COLUMNS, .out = CLASSES, .max_batch = 8};
    if (!python) python = TB_SOURCE_DIR "/.venv-peers/bin/python";
    if (access(python, X_OK) != 0) {
        print_message("SKIPPED: no tritonclient; scripts/dev test --full installs it\n");
        skip();
    }
    live_start(&l);
    snprintf(command, sizeof command,
             "timeout 60 %s " TB_SOURCE_DIR "/tests/serve/oip_client.py 127.0.0.1:%d mlp %d %d %d", python,
             l.port, ROWS, COLUMNS, CLASSES);
    int status = system(command);
    live_stop(&l);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) skip();
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(an_existing_client_works_unchanged)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
