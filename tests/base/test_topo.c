/* Topology and binding agree with what the kernel says about this process. */
#include "tb_alloc.h"
#include "tb_topo.h"
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <cmocka.h>

static void cores_lie_in_the_cpuset(void **state)
{
    (void)state;
    tb_topo topo;
    assert_int_equal(tb_topo_load(&topo), TB_OK);
    cpu_set_t set;
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    assert_in_range(topo.n_cores, 1, CPU_COUNT(&set));
    for (int i = 0; i < topo.n_cores; i++) assert_true(CPU_ISSET((size_t)topo.cores[i], &set));
}

static void *bind_and_look(void *arg)
{
    const int *core = arg;
    cpu_set_t set;
    CPU_ZERO(&set);
    tb_status st = tb_topo_bind_thread(core, 1);
    bool ok = st == TB_OK && sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) == 1 &&
              CPU_ISSET((size_t)*core, &set);
    return ok ? arg : NULL;
}

static void a_bound_thread_has_one_core_and_the_others_keep_theirs(void **state)
{
    (void)state;
    tb_topo topo;
    cpu_set_t before, after;
    assert_int_equal(tb_topo_load(&topo), TB_OK);
    sched_getaffinity(0, sizeof before, &before);
    pthread_t thread;
    void *ok = NULL;
    assert_int_equal(pthread_create(&thread, NULL, bind_and_look, &topo.cores[topo.n_cores - 1]), 0);
    pthread_join(thread, &ok);
    assert_non_null(ok);
    sched_getaffinity(0, sizeof after, &after);
    assert_true(CPU_EQUAL(&before, &after));
}

static void no_cores_or_unknown_cores_are_refused(void **state)
{
    (void)state;
    int far = 1000000;
    assert_int_equal(tb_topo_bind_thread(NULL, 0), TB_ERR_INVALID);
    assert_int_equal(tb_topo_bind_thread(&far, 1), TB_ERR_INVALID);
}

static void the_xml_is_hwlocs(void **state)
{
    (void)state;
    char *xml = NULL;
    assert_int_equal(tb_topo_xml(&xml), TB_OK);
    assert_non_null(strstr(xml, "<topology"));
    assert_non_null(strstr(xml, "</topology>"));
    tb_free(xml);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cores_lie_in_the_cpuset),
        cmocka_unit_test(a_bound_thread_has_one_core_and_the_others_keep_theirs),
        cmocka_unit_test(no_cores_or_unknown_cores_are_refused),
        cmocka_unit_test(the_xml_is_hwlocs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
