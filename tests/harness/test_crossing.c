/* The bound of a sum over ranks: its count, and that each way moves what the count says. */
#include "crossing.h"
#include "tb_test.h"

enum { PIECE = 1 << 18, N = PIECE + (1 << 14), MOST = 8 }; /* a piece and a part of one */

static float memory[MOST][N], *data[MOST];

static void fill(int ranks)
{
    for (int r = 0; r < ranks; r++) {
        data[r] = memory[r];
        for (int i = 0; i < N; i++) memory[r][i] = (float)((i % 10 + 1) * (r + 1));
    }
}

static void a_rank_takes_in_2_p_minus_1_of_p(void **state)
{
    (void)state;
    assert_int_equal(tb_crossing_count(4096, 1), 0);
    assert_int_equal(tb_crossing_count(4096, 2), 4096);
    assert_int_equal(tb_crossing_count(4096, 4), 6144);
    assert_int_equal(tb_crossing_count(4096, 8), 7168);
}

/* All ones: the checksum is how many elements of others were read. */
static void reading_takes_in_that_many(void **state)
{
    (void)state;
    for (int ranks = 2; ranks <= MOST; ranks *= 2)
        for (int isa = 0; isa < TB_ISAS; isa++) {
            double got;
            if ((tb_isa)isa > tb_isa_detect() || !tb_crossing_exists(TB_CROSSING_READ, ranks, (tb_isa)isa)) continue;
            for (int rank = 0; rank < ranks; rank++) {
                for (int r = 0; r < ranks; r++) {
                    data[r] = memory[r];
                    for (int i = 0; i < N; i++) memory[r][i] = r != rank;
                }
                tb_cross(TB_CROSSING_READ, (tb_isa)isa, data, N, rank, ranks, &got);
                assert_near(got, (double)tb_crossing_count(N, ranks), 0);
            }
        }
}

/* Between them the ranks leave the sums everywhere, and touch each element of each rank once. */
static void sums_are_those_of_all_ranks(void **state)
{
    (void)state;
    int tried = 0;
    for (int ranks = 2; ranks <= MOST; ranks *= 2)
        for (int isa = 0; isa < TB_ISAS; isa++) {
            double unused;
            if ((tb_isa)isa > tb_isa_detect() || !tb_crossing_exists(TB_CROSSING_SUM, ranks, (tb_isa)isa)) continue;
            fill(ranks);
            for (int rank = 0; rank < ranks; rank++)
                tb_cross(TB_CROSSING_SUM, (tb_isa)isa, data, N, rank, ranks, &unused);
            for (int r = 0; r < ranks; r++)
                for (int i = 0; i < N; i++)
                    assert_true(memory[r][i] == (float)((i % 10 + 1) * ranks * (ranks + 1) / 2));
            tried++;
        }
    assert_true(tried >= 3);
}

static void copies_leave_a_share_of_the_last_other_everywhere(void **state)
{
    (void)state;
    double unused;
    assert_true(tb_crossing_exists(TB_CROSSING_COPY, 2, TB_ISA_SCALAR));
    fill(2);
    tb_cross(TB_CROSSING_COPY, TB_ISA_SCALAR, data, N, 0, 2, &unused);
    for (int i = 0; i < N; i++) {
        bool moved = i < PIECE / 2 || (i >= PIECE && i < (PIECE + N) / 2);
        assert_true(memory[0][i] == (float)((i % 10 + 1) * (moved ? 2 : 1)));
        assert_true(memory[1][i] == (float)((i % 10 + 1) * 2));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rank_takes_in_2_p_minus_1_of_p),
        cmocka_unit_test(reading_takes_in_that_many),
        cmocka_unit_test(sums_are_those_of_all_ranks),
        cmocka_unit_test(copies_leave_a_share_of_the_last_other_everywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
