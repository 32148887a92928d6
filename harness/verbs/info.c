/* tb info: what this program is and what it runs on. */
#include "group.h"
#include "provenance.h"
#include "tb_alloc.h"
#include "tb_driver.h"
#include "tb_kernel.h"
#include "tb_text.h"
#include "tb_topo.h"
#include "tb_verb.h"
#include <stdlib.h>

static void count_kernels(int counts[TB_ISAS])
{
    for (int i = 0; i < tb_kernel_count(); i++) counts[tb_kernel_at(i)->isa]++;
}

static void put_program(tb_json *j, const tb_topo *topo)
{
    int counts[TB_ISAS] = {0};
    count_kernels(counts);
    tb_json_key(j, "cores");
    tb_json_open(j, '[');
    for (int i = 0; i < topo->n_cores; i++) tb_json_int(j, topo->cores[i]);
    tb_json_close(j, ']');
    tb_json_key(j, "kernels");
    tb_json_open(j, '{');
    for (int isa = 0; isa < TB_ISAS; isa++) {
        tb_json_put_int(j, tb_isa_name((tb_isa)isa), counts[isa]);
    }
    tb_json_close(j, '}');
    tb_json_key(j, "drivers");
    tb_json_open(j, '[');
    for (int i = 0; i < tb_driver_count(); i++) tb_json_str(j, tb_driver_at(i)->name);
    tb_json_close(j, ']');
}

static void print_program(const tb_topo *topo)
{
    int counts[TB_ISAS] = {0};
    count_kernels(counts);
    printf("%-28s", "cores");
    for (int i = 0; i < topo->n_cores; i++) printf(" %d", topo->cores[i]);
    printf("\n%-28s %d:", "kernels", tb_kernel_count());
    for (int isa = 0; isa < TB_ISAS; isa++) printf(" %s %d%s", tb_isa_name((tb_isa)isa), counts[isa],
                                                   isa + 1 < TB_ISAS ? "," : "");
    printf("\n%-28s", "drivers");
    for (int i = 0; i < tb_driver_count(); i++) printf(" %s", tb_driver_at(i)->name);
    printf("\n");
}

static int print_json(const tb_provenance *in, const tb_topo *topo)
{
    char *facts = NULL;
    size_t bytes = 0;
    FILE *memory = open_memstream(&facts, &bytes);
    tb_status st =
        memory ? tb_provenance_print(in, true, memory) : TB_FAIL(TB_ERR_OOM, "no memory for the facts");
    if (memory) fclose(memory);
    tb_text text = {0};
    tb_json j = {.to = &text, .pretty = true};
    tb_json_open(&j, '{');
    put_program(&j, topo);
    tb_json_put_raw(&j, "facts", facts ? facts : "null");
    tb_json_close(&j, '}');
    if (st == TB_OK) printf("%s", tb_text_str(&text));
    tb_text_free(&text);
    free(facts);
    return st == TB_OK ? 0 : tb_report(stderr);
}

static int info(const tb_args *args)
{
    tb_provenance in = {.argc = args->argc, .argv = args->argv, .mpi_library = tb_group_library()};
    tb_topo topo;
    if (tb_topo_load(&topo) != TB_OK) return tb_report(stderr);
    if (tb_args_has(args, "json")) return print_json(&in, &topo);
    print_program(&topo);
    return tb_provenance_print(&in, false, stdout) == TB_OK ? 0 : tb_report(stderr);
}

static const tb_option options[] = {{"json", 0, NULL, "as JSON"}};

TB_VERB(info, .group = TB_VERB_MACHINE, .args = "", .min_args = 0, .max_args = 0,
        .doc = "This build and this machine: compiler, libraries, processor, kernels, drivers",
        .options = options, .n_options = 1, .run = info);
