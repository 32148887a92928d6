/* What simpler models make of a text: numbers to print beside a language model's. */
#pragma once
#include "tb_status.h"
#include <stdint.h>

/* Entropy of the single bytes, nats per byte. */
double tb_unigram_entropy(const uint8_t *text, int64_t bytes);
/* What `bzip2 -9` needs, nats per byte. */
TB_MUST_USE tb_status tb_bzip2_entropy(const uint8_t *text, int64_t bytes, double *out);
