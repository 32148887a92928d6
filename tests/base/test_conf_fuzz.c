/* Mutation fuzz of the configuration parser, the same on every run: whatever the bytes are, it answers with a
 * tree or with one sentence, leaks nothing, and a tree's canonical text parses back to itself. */
#include "tb_alloc.h"
#include "tb_conf.h"
#include "tb_rng.h"
#include "tb_text.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

enum { BYTES_MAX = 1024, CASES = 20000 };

static const char *const seeds[] = {
    "question: How much?\ndriver: ddp\nlaunch:  {ranks: 1, threads: 1, device: cpu}\n"
    "sweep:\n  product: {launch.ranks: [1, 2], params.model: [mlp, cnn]}\nvalid:   [\"a.b <= 1e-5\"]\n",
    "{\"a\": [1, 2.5, -3e-4, true, null, \"x\\u00e9\\n\"], \"b\": {\"c\": {}, \"d\": []}}",
    "a: |\n  block\n  text\nb: >-\n  folded\n  text\nc: 'it''s'\n# end\n",
    "- &x 1\n- *x\n- !!str 2\n---\n<<: {}\n? k\n: v\n%YAML 1.1\n",
};

static uint64_t draw(uint64_t *counter, uint64_t n) { return tb_random_below(7, 1, (*counter)++, n); }

static size_t mutate(char *text, size_t n, uint64_t *counter)
{
    static const char telling[] = "{}[]:,-?&*!|>'\"%@`#\n\t\\ \x7f\x80\xc3\xff\0";
    size_t at = draw(counter, n + 1);
    switch (draw(counter, 5)) {
    case 0: /* another byte */
        if (at < n) text[at] = (char)draw(counter, 256);
        return n;
    case 1: /* a byte of meaning, put in */
        if (n == BYTES_MAX) return n;
        memmove(text + at + 1, text + at, n - at);
        text[at] = telling[draw(counter, sizeof telling)];
        return n + 1;
    case 2: { /* a stretch taken out */
        size_t cut = draw(counter, n - at + 1);
        memmove(text + at, text + at + cut, n - at - cut);
        return n - cut;
    }
    case 3: { /* a stretch doubled */
        size_t more = draw(counter, n - at + 1);
        if (n + more > BYTES_MAX) return n;
        memmove(text + at + more, text + at, n - at);
        return n + more;
    }
    default: /* the end missing */
        return at;
    }
}

static void check_round_trip(const tb_conf *root)
{
    tb_text first = {0}, second = {0};
    tb_conf_canonical(root, &first);
    tb_conf *again = NULL;
    tb_status st = tb_conf_parse(first.data, first.size, "canonical", &again);
    if (st != TB_OK) fail_msg("'%s': %s", tb_text_str(&first), tb_error_message());
    tb_conf_canonical(again, &second);
    assert_string_equal(tb_text_str(&first), tb_text_str(&second));
    tb_conf_free(again);
    tb_text_free(&first);
    tb_text_free(&second);
}

static void any_bytes_give_a_tree_or_a_sentence(void **state)
{
    (void)state;
    tb_mem_stats before, after;
    tb_heap_stats(tb_heap_process(), &before);
    uint64_t counter = 0;
    int trees = 0;
    for (int i = 0; i < CASES; i++) {
        char text[BYTES_MAX];
        const char *seed = seeds[draw(&counter, sizeof seeds / sizeof seeds[0])];
        size_t n = strlen(seed);
        memcpy(text, seed, n);
        for (uint64_t edits = 1 + draw(&counter, 4); edits > 0; edits--) n = mutate(text, n, &counter);
        tb_conf *root = NULL;
        tb_error_clear();
        tb_status st = tb_conf_parse(text, n, "fuzz", &root);
        if (st == TB_OK) check_round_trip(root);
        else assert_true(root == NULL && strncmp(tb_error_message(), "fuzz:", 5) == 0);
        trees += st == TB_OK;
        tb_conf_free(root);
    }
    tb_heap_stats(tb_heap_process(), &after);
    assert_int_equal(before.live_blocks, after.live_blocks);
    assert_in_range(trees, CASES / 10, CASES * 9 / 10); /* else the mutations test one side only */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(any_bytes_give_a_tree_or_a_sentence)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
