/* The text form has one spelling: what parses is written back byte for byte, whatever the bytes. */
#include "schedule_grid.h"
#include "tb_rng.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

static void write_out(const tb_schedule *s, tb_text *out)
{
    *out = (tb_text){ 0 };
    if (tb_schedule_write(s, out) != TB_OK) fail_msg("%s", tb_error_message());
}

/* true: the bytes are a schedule, and they are what it writes. */
static bool parses_back(const char *text, size_t bytes)
{
    tb_schedule *s;
    if (tb_schedule_parse(text, bytes, &s) != TB_OK) {
        assert_null(s);
        return false;
    }
    tb_text again;
    write_out(s, &again);
    assert_int_equal(again.size, bytes);
    assert_memory_equal(again.data, text, bytes);
    tb_text_free(&again);
    tb_schedule_free(s);
    return true;
}

static void one_f_one_b_of_two_ranks_reads_like_this(void **state)
{
    (void)state;
    tb_schedule *s;
    tb_text text;
    assert_int_equal(try_make("1f1b", 2, 2, 1, &s), TB_OK);
    write_out(s, &text);
    assert_string_equal(tb_text_str(&text),
                        "tb-schedule 1\nname 1f1b\nranks 2\nstages 2\nmicrobatches 2\nplacement 0 1\n"
                        "rank 0: 0F0 0SEND_F0>1 0F1 0SEND_F1>1 0RECV_B0<1 0B0 0RECV_B1<1 0B1 0REDUCE 0OPT\n"
                        "rank 1: 1RECV_F0<0 1F0 1RECV_F1<0 1B0 1SEND_B0>0 1F1 1B1 1SEND_B1>0 1REDUCE 1OPT\n");
    tb_text_free(&text);
    tb_schedule_free(s);
}

static void every_generated_schedule_parses_back(void **state)
{
    (void)state;
    grid_point g;
    int n = 0;
    for (; grid_at(n, 8, 32, &g); n++) {
        tb_schedule *s;
        tb_text text;
        assert_int_equal(try_make(g.name, g.ranks, g.microbatches, g.chunks, &s), TB_OK);
        write_out(s, &text);
        assert_true(parses_back(text.data, text.size));
        for (size_t cut = 0; cut < text.size; cut += 1 + text.size / 50) assert_false(parses_back(text.data, cut));
        tb_text_free(&text);
        tb_schedule_free(s);
    }
    assert_true(n > 50);
}

static void other_spellings_are_refused_with_their_place(void **state)
{
    (void)state;
    static const struct {
        const char *text, *sentence;
    } bad[] = {
        { "", "line 1, column 1: expected 'tb-schedule 1" },
        { "tb-schedule 2\n", "line 1, column 1" },
        { "tb-schedule 1\nname A\nranks 1\nstages 1\nmicrobatches 1\nplacement 0\nrank 0:\n", "a-z" },
        { "tb-schedule 1\nname a\nranks 0\n", "line 3, column 7: number out of range" },
        { "tb-schedule 1\nname a\nranks 01\n", "line 3, column 7: a number must not begin with 0" },
        { "tb-schedule 1\nname a\nranks 1\nstages 99999999999999999999\n", "line 4, column 8" },
        { "tb-schedule 1\nname a\nranks 1\nstages 1\nmicrobatches 1\nplacement 1\n", "line 6, column 11" },
        { "tb-schedule 1\nname a\nranks 1\nstages 1\nmicrobatches 1\nplacement 0\nrank 0: 0X0\n", "line 7, column 10" },
        { "tb-schedule 1\nname a\nranks 1\nstages 1\nmicrobatches 1\nplacement 0\nrank 0: 0F1\n", "column 11" },
        { "tb-schedule 1\nname a\nranks 1\nstages 1\nmicrobatches 1\nplacement 0\nrank 0: [0F0]\n", "two actions" },
        { "tb-schedule 1\nname a\nranks 1\nstages 1\nmicrobatches 1\nplacement 0\nrank 0: [0F0 0B0\n", "']'" },
        { "tb-schedule 1\nname a\nranks 1\nstages 1\nmicrobatches 1\nplacement 0\nrank 0: 0F0 \n", "a number" },
        { "tb-schedule 1\nname a\nranks 1\nstages 1\nmicrobatches 1\nplacement 0\nrank 0: 0F0", "end of the line" },
        { "tb-schedule 1\nname a\nranks 1\nstages 1\nmicrobatches 1\nplacement 0\nrank 0: 0F0\n\n", "end of the text" },
        { "tb-schedule 1\nname a\nranks 2\nstages 1\nmicrobatches 1\nplacement 0\nrank 1:\nrank 0:\n", "in order" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(parses_back(bad[i].text, strlen(bad[i].text)));
        if (!strstr(tb_error_message(), bad[i].sentence))
            fail_msg("case %zu: '%s' lacks '%s'", i, tb_error_message(), bad[i].sentence);
    }
}

/* Bytes changed, dropped, doubled and moved at random: mostly refused, and where accepted, the same bytes again. */
static void mutated_text_is_refused_or_parses_back(void **state)
{
    (void)state;
    static const char alphabet[] = "0123456789FBIW[]<> :\nSENDRCVUOPT_abc-\0";
    const char *longer = getenv("TB_FUZZ");
    uint64_t rounds = longer ? strtoull(longer, NULL, 10) : 20000, accepted = 0, at = 0;
    tb_schedule *s;
    tb_text text;
    assert_int_equal(try_make("interleaved_1f1b", 2, 4, 2, &s), TB_OK);
    write_out(s, &text);
    char *copy = malloc(text.size + 16);
    for (uint64_t k = 0; k < rounds; k++) {
        size_t n = text.size;
        memcpy(copy, text.data, n);
        for (uint64_t edits = 1 + tb_random_below(1, 0, at++, 3); edits--;) {
            size_t where = tb_random_below(1, 0, at++, n);
            switch (tb_random_below(1, 0, at++, 3)) {
            case 0: copy[where] = alphabet[tb_random_below(1, 0, at++, sizeof alphabet - 1)]; break;
            case 1: memmove(copy + where, copy + where + 1, --n - where); break;
            default:
                memmove(copy + where + 1, copy + where, n++ - where);
                copy[where] = alphabet[tb_random_below(1, 0, at++, sizeof alphabet - 1)];
            }
        }
        accepted += parses_back(copy, n);
    }
    if (accepted < rounds / 1000 || accepted > rounds / 2) fail_msg("%d of %d accepted", (int)accepted, (int)rounds);
    free(copy);
    tb_text_free(&text);
    tb_schedule_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_f_one_b_of_two_ranks_reads_like_this),
        cmocka_unit_test(every_generated_schedule_parses_back),
        cmocka_unit_test(other_spellings_are_refused_with_their_place),
        cmocka_unit_test(mutated_text_is_refused_or_parses_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
