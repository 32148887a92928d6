/* Each rule of a schedule, broken by hand: the checker names the rule, the rank and the action. */
#include "schedule_grid.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

/* A valid schedule of two ranks whose lists are then replaced by the given ones. */
static void expect(const char *lists, tb_schedule_rule rule, const char *sentence)
{
    tb_text text = { 0 };
    tb_schedule *s;
    tb_schedule_rule broken;
    tb_text_add(&text, "tb-schedule 1\nname t\nranks 2\nstages 2\nmicrobatches 2\nplacement 0 1\n%s", lists);
    if (tb_schedule_parse(text.data, text.size, &s) != TB_OK) fail_msg("%s", tb_error_message());
    tb_status st = tb_schedule_check(s, &broken);
    if (broken != rule) fail_msg("rule %d, not %d: %s", broken, rule, tb_error_message());
    assert_int_equal(st, rule == TB_RULE_NONE ? TB_OK : TB_ERR_INVALID);
    if (sentence && !strstr(tb_error_message(), sentence)) fail_msg("'%s' lacks '%s'", tb_error_message(), sentence);
    tb_schedule_free(s);
    tb_text_free(&text);
}

#define FIRST "rank 0: 0F0 0SEND_F0>1 0F1 [0SEND_F1>1 0RECV_B0<1] 0B0 0RECV_B1<1 0B1 0REDUCE 0OPT\n"
#define SECOND "rank 1: 1RECV_F0<0 1F0 1B0 [1SEND_B0>0 1RECV_F1<0] 1F1 1B1 1SEND_B1>0 1REDUCE 1OPT\n"

static void opposite_messages_in_a_group_are_valid(void **state)
{
    (void)state;
    expect(FIRST SECOND, TB_RULE_NONE, NULL);
}

static void order_within_a_group_does_not_matter(void **state)
{
    (void)state;
    expect("rank 0: 0F0 0SEND_F0>1 0F1 [0RECV_B0<1 0SEND_F1>1] 0B0 0RECV_B1<1 0B1 0REDUCE 0OPT\n" SECOND, TB_RULE_NONE,
           NULL);
}

static void split_backward_counts_as_one(void **state)
{
    (void)state;
    expect(FIRST "rank 1: 1RECV_F0<0 1F0 1I0 [1SEND_B0>0 1RECV_F1<0] 1F1 1I1 1SEND_B1>0 1W0 1W1 1REDUCE 1OPT\n",
           TB_RULE_NONE, NULL);
}

static void form(void **state)
{
    (void)state;
    expect(FIRST "rank 1: 0F0 1RECV_F0<0 1F0 1B0 1SEND_B0>0\n", TB_RULE_FORM,
           "rank 1, action 0, 0F0: the stage lives on");
    expect(FIRST "rank 1: 1RECV_F0<1 1F0 1B0 1SEND_B0>0\n", TB_RULE_FORM,
           "1RECV_F0<1: its stage lives on another rank");
    expect(FIRST "rank 1: 1RECV_F0<0 1F0 1SEND_F0>0 1B0\n", TB_RULE_FORM, "1SEND_F0>0: no other rank");
    expect(FIRST "rank 1: 1RECV_F0<0 [1F0 1B0] 1SEND_B0>0\n", TB_RULE_FORM, "1B0: only messages");
}

static void once(void **state)
{
    (void)state;
    expect("rank 0:\nrank 1:\n", TB_RULE_ONCE, "0 actions cannot cover 2 stages x 2 micro-batches");
    expect(FIRST "rank 1: 1RECV_F0<0 1F0 1F0 1B0\n", TB_RULE_ONCE, "action 2, 1F0");
    expect(FIRST "rank 1: 1RECV_F0<0 1F0 1B0 1B0\n", TB_RULE_ONCE, "action 3, 1B0");
    expect(FIRST "rank 1: 1RECV_F0<0 1F0 1B0 1W0\n", TB_RULE_ONCE, "action 3, 1W0");
    expect(FIRST "rank 1: 1RECV_F0<0 1RECV_F0<0 1F0 1B0\n", TB_RULE_ONCE, "action 1, 1RECV_F0<0");
    expect(FIRST "rank 1: 1RECV_F0<0 1F0 1B0 1SEND_B0>0 1RECV_F1<0 1F1 1B1 1REDUCE 1OPT\n", TB_RULE_ONCE,
           "rank 1 lacks SEND_B of stage 1, micro-batch 1");
    expect(FIRST "rank 1: 1RECV_F0<0 1F0 1I0 1SEND_B0>0 1RECV_F1<0 1F1\n", TB_RULE_ONCE,
           "rank 1 lacks W of stage 1, micro-batch 0");
}

static void dependency(void **state)
{
    (void)state;
    expect("rank 0: 0SEND_F0>1 0F0\n" SECOND, TB_RULE_DEPENDENCY, "rank 0, action 0, 0SEND_F0>1: what it sends");
    expect("rank 0: 0F0 0B0\n" SECOND, TB_RULE_DEPENDENCY, "0B0: the gradient of its output");
    expect(FIRST "rank 1: 1F0 1RECV_F0<0\n", TB_RULE_DEPENDENCY, "1F0: its input has not been received");
    expect(FIRST "rank 1: 1RECV_F0<0 1B0\n", TB_RULE_DEPENDENCY, "1B0: its forward");
    expect(FIRST "rank 1: 1RECV_F0<0 1F0 1W0\n", TB_RULE_DEPENDENCY, "1W0: its input gradient");
}

static void matching(void **state)
{
    (void)state;
    expect(FIRST "rank 1: 1RECV_F1<0 1F1 1RECV_F0<0 1F0 1B0 1SEND_B0>0 1B1 1SEND_B1>0 1REDUCE 1OPT\n", TB_RULE_MATCH,
           "action 0 of rank 1, 1RECV_F1<0, meets action 1 of rank 0, 0SEND_F0>1");
}

static void deadlock(void **state)
{
    (void)state;
    expect(FIRST "rank 1: 1RECV_F0<0 1F0 1RECV_F1<0 1B0 1F1 1B1 1SEND_B1>0 1SEND_B0>0 1REDUCE 1OPT\n", TB_RULE_MATCH,
           NULL);
    expect("rank 0: 0F0 0SEND_F0>1 0RECV_B0<1 0F1 0SEND_F1>1 0B0 0RECV_B1<1 0B1 0REDUCE 0OPT\n"
           "rank 1: 1RECV_F0<0 1F0 1RECV_F1<0 1B0 1SEND_B0>0 1F1 1B1 1SEND_B1>0 1REDUCE 1OPT\n",
           TB_RULE_DEADLOCK,
           "rank 0 at action 2, 0RECV_B0<1, waits for rank 1; rank 1 at action 2, 1RECV_F1<0, waits for "
           "rank 0.");
}

/* Ranks 0 and 1 wait for each other; 2 and 3 wait in the same chain but are not the cause. */
static void the_shortest_cycle_is_named_alone(void **state)
{
    (void)state;
    tb_schedule *s;
    tb_schedule_rule broken;
    assert_int_equal(try_make("1f1b", 4, 4, 1, &s), TB_OK);
    tb_action *a = s->lists[0].at;
    while (!(a[0].kind == TB_SEND_F && a[1].kind == TB_RECV_B)) a++;
    tb_action send = a[0];
    a[0] = a[1];
    a[1] = send;
    assert_int_equal(tb_schedule_check(s, &broken), TB_ERR_INVALID);
    assert_int_equal(broken, TB_RULE_DEADLOCK);
    assert_non_null(strstr(tb_error_message(), "rank 0 at action 7, 0RECV_B0<1, waits for rank 1; rank 1 at action "));
    assert_null(strstr(tb_error_message(), "rank 2"));
    tb_schedule_free(s);
}

static void order(void **state)
{
    (void)state;
    expect(FIRST "rank 1: 1RECV_F0<0 1F0 1I0 [1SEND_B0>0 1RECV_F1<0] 1F1 1I1 1SEND_B1>0 1W1 1W0 1REDUCE 1OPT\n",
           TB_RULE_ORDER, "action 8, 1W1: weight gradients must be added over micro-batches in ascending order");
}

static void update(void **state)
{
    (void)state;
    expect(FIRST "rank 1: 1RECV_F0<0 1F0 1B0 1REDUCE\n", TB_RULE_UPDATE,
           "1REDUCE: weight gradients of the stage are still");
    expect(FIRST "rank 1: 1RECV_F0<0 1F0 1B0 1OPT\n", TB_RULE_UPDATE, "1OPT: the stage has not been reduced");
    expect(FIRST "rank 1: 1RECV_F0<0 1F0 1B0 [1SEND_B0>0 1RECV_F1<0] 1F1 1B1 1SEND_B1>0 1REDUCE\n", TB_RULE_UPDATE,
           "rank 1 lacks OPT of stage 1");
    expect(FIRST "rank 1: 1RECV_F0<0 1F0 1B0 [1SEND_B0>0 1RECV_F1<0] 1F1 1B1 1SEND_B1>0 1REDUCE 1REDUCE 1OPT\n",
           TB_RULE_UPDATE, "has been reduced before");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opposite_messages_in_a_group_are_valid),
        cmocka_unit_test(order_within_a_group_does_not_matter),
        cmocka_unit_test(split_backward_counts_as_one),
        cmocka_unit_test(form),
        cmocka_unit_test(once),
        cmocka_unit_test(dependency),
        cmocka_unit_test(matching),
        cmocka_unit_test(deadlock),
        cmocka_unit_test(the_shortest_cycle_is_named_alone),
        cmocka_unit_test(order),
        cmocka_unit_test(update),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
