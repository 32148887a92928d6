/* tb ops: nothing in the table is empty without a reason. */
#include "harness/tb_program.h"
#include "tb_op.h"

/* The rest of the line after the op's name, NULL when there is no such line. */
static const char *row_of(const char *table, const char *name)
{
    size_t n = strlen(name);
    for (const char *line = table; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, n) == 0 && line[n] == ' ') return line + n;
    }
    return NULL;
}

static void every_op_has_a_row_without_an_empty_cell(void **state)
{
    (void)state;
    program_run run = run_program("ops");
    expect(&run, 0, "gradient");
    for (int i = 0; i < TB_OP_COUNT; i++) {
        const tb_op *op = tb_op_at(i);
        const char *row = row_of(run.output, op->name);
        char cell[TB_DTYPES][8], gradient[8], rest[16];
        if (!row) fail_msg("no row of %s", op->name);
        int n = sscanf(row, "%7s %7s %7s %7s %7s %7s %7s %7s %7s %7s %15s", cell[0], cell[1], cell[2], cell[3], cell[4],
                       cell[5], cell[6], cell[7], cell[8], gradient, rest);
        assert_true(n >= TB_DTYPES + 1);
        bool says_more = n == TB_DTYPES + 2; /* "no:" and "-" are followed by a reason */
        if (!op->grad) assert_string_equal(gradient, "no:");
        for (int t = 0; t < TB_DTYPES; t++)
            if ((strcmp(cell[t], "-") == 0 || !op->grad) && !says_more) fail_msg("%s gives no reason", op->name);
    }
}

static void one_op_is_shown_with_its_kernels_and_attributes(void **state)
{
    (void)state;
    program_run run = run_program("ops sum");
    expect(&run, 0, "row_sum_f32_scalar");
    expect(&run, 0, "axes summed over");
    run = run_program("ops summ");
    expect(&run, 2, "nearest: 'sum'");
}

static void json_names_implementations_and_nothing_for_what_is_not_defined(void **state)
{
    (void)state;
    program_run run = run_program("ops gelu_erf --json");
    expect(&run, 0, "\"scalar\"");
    expect(&run, 0, "\"i8\": null");
    expect(&run, 0, "as in torch");
    expect(&run, 0, "\"tolerance\": 4");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_SCRATCH(every_op_has_a_row_without_an_empty_cell),
        IN_SCRATCH(one_op_is_shown_with_its_kernels_and_attributes),
        IN_SCRATCH(json_names_implementations_and_nothing_for_what_is_not_defined),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
