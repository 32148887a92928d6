/* From the command line to a verb: the generated table, option parsing, help. */
#include "tb_alloc.h"
#include "tb_cpu.h"
#include "tb_text.h"
#include "tb_verb.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static const tb_verb *const verbs[] = {
#define TB_VERB_ENTRY(name) &tb_verb_##name,
#include "tb_verb_list.inc"
#undef TB_VERB_ENTRY
};
enum { N_VERBS = sizeof verbs / sizeof verbs[0], EXIT_USAGE = 2, EXIT_FAILED = 3 };

static const char *const group_titles[] = {"Experiments", "This machine and this build", "Models"};

static void print_help(void)
{
    printf("tb: run experiments on TensorBrain and look at what they measured\n");
    for (int group = 0; group < TB_VERB_INTERNAL; group++) {
        printf("\n%s\n", group_titles[group]);
        for (int i = 0; i < N_VERBS; i++)
            if ((int)verbs[i]->group == group)
                printf("  %-9s %-26s %s\n", verbs[i]->name, verbs[i]->args, verbs[i]->doc);
    }
    printf(
        "\ntb VERB --help tells more. Exit codes: 0 ok, 1 parity or regression, 2 usage or configuration,\n"
        "3 invalid, crashed, timed out or nothing measured, 4 inconclusive, 5 no baseline.\n");
}

static void print_verb_help(const tb_verb *verb)
{
    printf("tb %s%s%s\n\n%s.\n", verb->name, *verb->args ? " " : "", verb->args, verb->doc);
    if (verb->n_options > 0) printf("\n");
    for (int i = 0; i < verb->n_options; i++) {
        const tb_option *o = &verb->options[i];
        char left[64];
        snprintf(left, sizeof left, "%c%c%s%s%s%s%s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ',
                 o->name && o->letter ? ", " : "  ", o->name ? "--" : "", o->name ? o->name : "",
                 o->arg ? " " : "", o->arg ? o->arg : "");
        printf("  %-28s %s\n", left, o->doc);
    }
    if (verb->help) printf("\n%s\n", verb->help);
}

static int find_option(const tb_verb *verb, const char *word, const char **value)
{
    size_t n = strcspn(word, "=");
    for (int i = 0; i < verb->n_options; i++) {
        const tb_option *o = &verb->options[i];
        bool is_long = strncmp(word, "--", 2) == 0 && o->name && n - 2 == strlen(o->name) &&
                       strncmp(word + 2, o->name, n - 2) == 0;
        if (is_long) {
            *value = word[n] == '=' ? word + n + 1 : NULL;
            return i;
        }
        if (word[1] == o->letter && word[1] != '-') {
            *value = word[2] ? word + 2 : NULL;
            return i;
        }
    }
    return -1;
}

static int unknown_option(const tb_verb *verb, const char *word)
{
    const char *names[32];
    int n = 0;
    for (int i = 0; i < verb->n_options && n < 32; i++)
        if (verb->options[i].name) names[n++] = verb->options[i].name;
    const char *near = tb_nearest(word + strspn(word, "-"), names, n);
    fprintf(stderr, "tb %s: unknown option %s%s%s.  tb %s --help lists all\n", verb->name, word,
            near ? "; nearest: --" : "", near ? near : "", verb->name);
    return EXIT_USAGE;
}

/* Options and words may mix; "--" ends the options. */
static int run_verb(const tb_verb *verb, int argc, char **argv)
{
    const char **words = tb_calloc((size_t)argc + 1, sizeof *words),
               **values = tb_calloc((size_t)argc + 1, sizeof *values);
    int *option_at = tb_calloc((size_t)argc + 1, sizeof *option_at);
    int code = -1;
    if (!words || !values || !option_at) code = tb_report(stderr);
    tb_args args = {
        .verb = verb, .words = words, .option_at = option_at, .values = values, .argc = argc, .argv = argv};
    bool only_words = false;
    for (int i = 2; i < argc && code < 0; i++) {
        const char *word = argv[i];
        if (only_words || word[0] != '-' || !word[1]) {
            words[args.n_words++] = word;
        } else if (strcmp(word, "--") == 0) {
            only_words = true;
        } else if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
            print_verb_help(verb);
            code = 0;
        } else {
            const char *value = NULL;
            int at = find_option(verb, word, &value);
            if (at < 0) {
                code = unknown_option(verb, word);
            } else if ((verb->options[at].arg && !value && i + 1 == argc) ||
                       (!verb->options[at].arg && value)) {
                fprintf(stderr, "tb %s: %s %s\n", verb->name, word,
                        value ? "takes no value" : "wants a value");
                code = EXIT_USAGE;
            } else {
                option_at[args.n_options] = at;
                values[args.n_options++] = verb->options[at].arg && !value ? argv[++i] : value;
            }
        }
    }
    if (code < 0 && (args.n_words < verb->min_args || args.n_words > verb->max_args)) {
        fprintf(stderr, "usage: tb %s%s%s.  tb %s --help tells more\n", verb->name, *verb->args ? " " : "", verb->args,
                verb->name);
        code = EXIT_USAGE;
    }
    tb_isa allowed;
    if (code < 0 && tb_isa_allowed(&allowed) != TB_OK) code = tb_report(stderr); /* also where no kernel is to run */
    if (code < 0) code = verb->run(&args);
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == 0) {
        fprintf(stderr, "tb %s: the output is not complete: standard output took no more (is the disk full?)\n",
                verb->name);
        code = EXIT_FAILED;
    }
    tb_free(words);
    tb_free(values);
    tb_free(option_at);
    return code;
}

bool tb_args_has(const tb_args *args, const char *option)
{
    for (int i = 0; i < args->n_options; i++)
        if (strcmp(args->verb->options[args->option_at[i]].name, option) == 0) return true;
    return false;
}

const char *tb_args_get(const tb_args *args, const char *option)
{
    const char *value = NULL;
    for (int i = 0; i < args->n_options; i++)
        if (strcmp(args->verb->options[args->option_at[i]].name, option) == 0) value = args->values[i];
    return value;
}

tb_status tb_args_int(const tb_args *args, const char *option, int64_t least, int64_t most, int64_t *out)
{
    const char *text = tb_args_get(args, option);
    char *end;
    if (!text) return TB_OK;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (*end || end == text || errno || v < least || v > most)
        return TB_FAIL(TB_ERR_CONFIG, "tb %s: --%s takes a whole number from %lld to %lld, not '%s'", args->verb->name,
                       option, (long long)least, (long long)most, text);
    *out = v;
    return TB_OK;
}

int tb_main(int argc, char **argv)
{
    signal(SIGXFSZ, SIG_IGN); /* a write past a file's largest size then says so, as one on a full disk does */
    const char *name = argc > 1 ? argv[1] : "help";
    bool wants_help = strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0;
    const char *topic = wants_help && argc > 2 ? argv[2] : name, *names[N_VERBS];
    for (int i = 0; i < N_VERBS; i++) {
        names[i] = verbs[i]->name;
        if (strcmp(topic, verbs[i]->name) != 0) continue;
        if (!wants_help) return run_verb(verbs[i], argc, argv);
        print_verb_help(verbs[i]);
        return 0;
    }
    if (wants_help && argc <= 2) {
        print_help();
        return argc > 1 ? 0 : EXIT_USAGE;
    }
    const char *near = tb_nearest(topic, names, N_VERBS);
    fprintf(stderr, "tb: no verb '%s'%s%s.  tb help lists all\n", topic, near ? "; nearest: " : "",
            near ? near : "");
    return EXIT_USAGE;
}
