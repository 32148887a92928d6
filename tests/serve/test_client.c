/* Clients that others wrote do what they do elsewhere: tritonclient (oip_client.py) and the parser of Prometheus
 * (prometheus_scrape.py). They live in .venv-peers, which `scripts/dev peers` makes. */
#include "live_server.h"
#include <sys/wait.h>

enum { ROWS = 5, COLUMNS = 4, CLASSES = 3 };

/* `script` with the address of a server and `arguments`, after one request was answered. */
static void run_client(const char *script, const char *arguments)
{
    const char *python = getenv("TB_PEERS_PYTHON");
    char command[512];
    live l = {.in = COLUMNS, .out = CLASSES, .max_batch = 8};
    if (!python) python = TB_SOURCE_DIR "/.venv-peers/bin/python";
    if (access(python, X_OK) != 0) {
        print_message("SKIPPED: no client of others in .venv-peers; scripts/dev peers installs them\n");
        skip();
    }
    live_start(&l);
    check_well(&l, "the start");
    snprintf(command, sizeof command, "timeout 60 %s " TB_SOURCE_DIR "/tests/serve/%s 127.0.0.1:%d %s", python, script,
             l.port, arguments);
    int status = system(command);
    live_stop(&l);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) skip();
    assert_int_equal(status, 0);
}

static void a_client_of_the_protocol_works_unchanged(void **state)
{
    (void)state;
    char arguments[64];
    snprintf(arguments, sizeof arguments, "mlp %d %d %d", ROWS, COLUMNS, CLASSES);
    run_client("oip_client.py", arguments);
}

static void prometheus_reads_the_metrics(void **state)
{
    (void)state;
    run_client("prometheus_scrape.py", "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_client_of_the_protocol_works_unchanged),
        cmocka_unit_test(prometheus_reads_the_metrics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
