/* tb toy_verb: whether a verb of one file is found. */
#include "tb_verb.h"
#include <stdio.h>

static int greet(const tb_args *args)
{
    printf("toy_verb was told '%s'\n", args->words[0]);
    return 0;
}

TB_VERB(toy_verb, .group = TB_VERB_MACHINE, .args = "WORD", .min_args = 1, .max_args = 1, .doc = "Say a word",
        .run = greet);
