/* Random streams: the published answers of Philox4x32-10, moments, independence of order. */
#include "tb_test.h"
#include "tb_rng.h"
#include <math.h>

/* Known answers of the Random123 distribution (kat_vectors). */
static void philox_gives_the_published_answers(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        uint32_t out[4];
        tb_philox4x32(known[i].counter, known[i].key, out);
        assert_memory_equal(out, known[i].out, sizeof out);
    }
}

static void uniform_and_normal_have_their_moments(void **state)
{
    (void)state;
    enum { N = 200000 };
    double u = 0, uu = 0, n = 0, nn = 0;
    for (int i = 0; i < N; i++) {
        double x = tb_random_uniform(1, 2, (uint64_t)i), y = tb_random_normal(1, 3, (uint64_t)i);
        assert_true(x >= 0 && x < 1);
        u += x, uu += x * x, n += y, nn += y * y;
    }
    assert_near(u / N, 0.5, 5 / sqrt(12.0 * N));
    assert_near(uu / N - 1.0 / 3, 0, 5 * sqrt(4.0 / 45 / N));
    assert_near(n / N, 0, 5 / sqrt(N));
    assert_near(nn / N, 1, 5 * sqrt(2.0 / N));
}

static void streams_of_different_names_or_indices_differ(void **state)
{
    (void)state;
    uint64_t a = tb_stream_name(1, "dropout"), b = tb_stream_name(1, "init"), c = tb_stream_index(a, 0);
    assert_true(a != b && a != c && tb_stream_index(a, 1) != c && tb_stream_name(2, "dropout") != a);
}

static void permutations_hold_every_number_and_depend_on_the_seed(void **state)
{
    (void)state;
    int64_t order[257], other[257];
    int seen[257] = {0}, same = 0;
    tb_random_permutation(7, 1, 257, order);
    tb_random_permutation(8, 1, 257, other);
    for (int i = 0; i < 257; i++) {
        seen[order[i]]++;
        same += order[i] == other[i];
    }
    for (int i = 0; i < 257; i++) assert_int_equal(seen[i], 1);
    assert_true(same < 20);
}

static void bounded_draws_stay_below_and_reach_all(void **state)
{
    (void)state;
    int seen[7] = {0};
    for (uint64_t i = 0; i < 1000; i++) {
        uint64_t x = tb_random_below(1, 1, i, 7);
        assert_true(x < 7);
        seen[x]++;
    }
    for (int i = 0; i < 7; i++) assert_true(seen[i] > 90);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_published_answers), cmocka_unit_test(uniform_and_normal_have_their_moments),
        cmocka_unit_test(streams_of_different_names_or_indices_differ),
        cmocka_unit_test(permutations_hold_every_number_and_depend_on_the_seed),
        cmocka_unit_test(bounded_draws_stay_below_and_reach_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
