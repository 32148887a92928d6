/* Peers: their names, and that one at rest stands still until it is asked again. */
#include "infer_peers.h"
#include "tb_program.h"

static void names_are_told_apart(void **state)
{
    static const struct {
        const char *names;
        bool asked[TB_INFER_PEERS];
    } cases[] = {
        {"", {false}},
        {"torch", {true}},
        {"ort-int8,torch-best", {false, true, false, false, true}},
        {"torch,torch-best,torch-int8,ort,ort-int8", {true, true, true, true, true}},
        {"ort,ort", {false, false, false, true}},
    };
    bool asked[TB_INFER_PEERS];
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        memset(asked, true, sizeof asked);
        assert_int_equal(tb_infer_peers_parse(cases[i].names, asked), TB_OK);
        assert_memory_equal(asked, cases[i].asked, sizeof asked);
    }
}

static void a_name_that_is_not_there_is_said_with_those_that_are(void **state)
{
    static const char *const wrong[][2] = {{"tensorflow", "no peer 'tensorflow'"},
                                           {"torch,torc", "no peer 'torc'"},
                                           {"torch-int8x,ort", "no peer 'torch-int8x'"},
                                           {"torch, ort", "no peer ' ort'"},
                                           {",torch", "no peer ''"}};
    bool asked[TB_INFER_PEERS];
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_int_equal(tb_infer_peers_parse(wrong[i][0], asked), TB_ERR_CONFIG);
        assert_non_null(strstr(tb_error_message(), wrong[i][1]));
        assert_non_null(strstr(tb_error_message(), "torch, torch-best, torch-int8, ort, ort-int8"));
        tb_error_clear();
    }
}

/* A wrong name costs nothing: it is found before anything is trained. */
static void a_run_with_a_wrong_peer_ends_at_once(void **state)
{
    (void)state;
    write_file("experiments/x.yaml", "driver: infer\nparams: {peers: 'torch,nobody', train_steps: 10000000}\n"
                                     "measure: {launches: 1}\nlaunch: {timeout_s: 20}\n");
    program_run run = run_program("run x --out out");
    expect(&run, 3, "no peer 'nobody' in params.peers");
}

static void images_are_not_read_byte_by_byte(void **state)
{
    (void)state;
    write_file("experiments/x.yaml", "driver: infer\nparams: {form: step, train_steps: 10000000}\n"
                                     "measure: {launches: 1}\nlaunch: {timeout_s: 20}\n");
    program_run run = run_program("run x --out out");
    expect(&run, 3, "'fashion-mnist' holds images; only text is read byte by byte");
}

/* ---- rest ---- */
/* Letter of its state and the ticks of the processor that it took so far (proc(5)). */
static char state_of(pid_t pid, unsigned long *ticks)
{
    char path[64], line[1024] = "", letter = '?';
    unsigned long user = 0, system = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_non_null(fgets(line, sizeof line, f));
    fclose(f);
    const char *after = strrchr(line, ')');
    assert_non_null(after);
    assert_int_equal(sscanf(after, ") %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &letter, &user, &system), 3);
    *ticks = user + system;
    return letter;
}

/* Signals are sent, not awaited. */
static char state_soon(pid_t pid, char wanted)
{
    unsigned long ticks;
    char letter = '?';
    for (int i = 0; i < 1000 && (letter = state_of(pid, &ticks)) != wanted; i++) sleep_ms(2);
    return letter;
}

/* It spins on a second thread between questions, as thread pools do, and says how often it was asked. */
static const char spinner[] = "#!/usr/bin/python3\n"
                              "import sys, threading\n"
                              "def spin():\n"
                              "    while True:\n"
                              "        pass\n"
                              "threading.Thread(target=spin, daemon=True).start()\n"
                              "print('ready spinner-' + sys.argv[1], flush=True)\n"
                              "for asked, _ in enumerate(sys.stdin, 1):\n"
                              "    print(asked, flush=True)\n";

static void a_peer_at_rest_stands_still_until_it_is_asked(void **state)
{
    char version[64], *args[] = {"7", NULL};
    unsigned long before, after;
    double ms;
    tb_peer *p;
    (void)state;
    assert_int_equal(mkdir("scripts", 0755), 0);
    assert_int_equal(mkdir("scripts/peers", 0755), 0);
    write_file("scripts/peers/spinner.py", spinner);
    assert_int_equal(chmod("scripts/peers/spinner.py", 0755), 0);
    assert_int_equal(tb_peer_start("spinner.py", args, &p, version), TB_OK);
    assert_string_equal(version, "spinner-7");
    pid_t pid = tb_peer_pid(p);
    for (int turn = 1; turn <= 3; turn++) {
        tb_peer_rest(p);
        assert_int_equal(state_soon(pid, 'T'), 'T');
        state_of(pid, &before);
        sleep_ms(60);
        assert_int_equal(state_of(pid, &after), 'T');
        assert_true(after == before);
        assert_int_equal(tb_peer_iterate(p, &ms), TB_OK);
        assert_true(ms == turn);
        state_of(pid, &before);
        for (int i = 0; i < 1000 && (state_of(pid, &after), after == before); i++) sleep_ms(2);
        assert_true(after > before); /* awake it does spin: the rest was what stopped it */
    }
    tb_peer_rest(p);
    tb_peer_stop(p); /* also one at rest ends */
    assert_int_equal(kill(pid, 0), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_told_apart),
        cmocka_unit_test(a_name_that_is_not_there_is_said_with_those_that_are),
        IN_SCRATCH(a_run_with_a_wrong_peer_ends_at_once),
        IN_SCRATCH(images_are_not_read_byte_by_byte),
        IN_SCRATCH(a_peer_at_rest_stands_still_until_it_is_asked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
