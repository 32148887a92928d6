/* The verbs of the program. One verb, one file, harness/verbs/<name>.c, with one
 *     TB_VERB(name, .args = "...", .doc = "...", .help = ..., .group = ..., .run = ...);
 * found at build time by that line; `tb help` and `tb <verb> --help` are made from it. */
#pragma once
#include "tb_status.h"
#include <stdbool.h>
#include <stdint.h>

struct tb_args;

typedef enum tb_verb_group {
    TB_VERB_EXPERIMENT,
    TB_VERB_MACHINE,
    TB_VERB_MODEL,
    TB_VERB_INTERNAL
} tb_verb_group;

typedef struct tb_option {
    const char *name;      /* "where"; long, given as --where */
    char letter;           /* 's' for -s; 0: none */
    const char *arg;       /* "EXPR"; NULL: a flag */
    const char *doc;
} tb_option;

typedef struct tb_verb {
    const char *name;
    tb_verb_group group;   /* of the listing; INTERNAL ones are not listed */
    const char *args;      /* "EXPERIMENT" */
    int min_args, max_args;
    const char *doc;       /* one line */
    const char *help;      /* more, or NULL */
    const tb_option *options;
    int n_options;
    int (*run)(const struct tb_args *args); /* returns the program's exit code */
} tb_verb;

/* The parsed command line. */
typedef struct tb_args {
    const tb_verb *verb;
    const char *const *words;   /* without options */
    int n_words;
    const int *option_at;       /* given options in order: index into verb->options, */
    const char *const *values;  /* and the value (NULL for a flag) */
    int n_options;
    int argc;                   /* as main() got it */
    char **argv;
} tb_args;

bool tb_args_has(const tb_args *args, const char *option);
const char *tb_args_get(const tb_args *args, const char *option); /* the last one given; NULL when absent */
/* The same as a whole number from `least` to `most`; *out stays what it is when the option is absent. */
TB_MUST_USE tb_status tb_args_int(const tb_args *args, const char *option, int64_t least, int64_t most, int64_t *out);

#define TB_VERB(name_, ...) const tb_verb tb_verb_##name_ = {.name = #name_, __VA_ARGS__}
#define TB_VERB_ENTRY(name_) extern const tb_verb tb_verb_##name_;
#include "tb_verb_list.inc"
#undef TB_VERB_ENTRY

int tb_main(int argc, char **argv);
