/* Reference figures of a text. The program bzip2 (Debian package bzip2) does the compressing. */
#include "text_reference.h"
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

double tb_unigram_entropy(const uint8_t *text, int64_t bytes)
{
    int64_t count[256] = {0};
    double nats = 0;
    for (int64_t i = 0; i < bytes; i++) count[text[i]]++;
    for (int c = 0; c < 256; c++)
        if (count[c]) nats -= (double)count[c] / (double)bytes * log((double)count[c] / (double)bytes);
    return nats;
}

/* The size of the program's output. */
static tb_status count_output(const char *command, int64_t *bytes)
{
    char block[4096];
    FILE *p = popen(command, "re");
    if (!p) return TB_FAIL(TB_ERR_IO, "cannot run '%s': %s", command, strerror(errno));
    *bytes = 0;
    for (size_t n; (n = fread(block, 1, sizeof block, p)) > 0;) *bytes += (int64_t)n;
    int status = pclose(p);
    if (status != 0) return TB_FAIL(TB_ERR_IO, "'%s' failed; install the Debian package bzip2", command);
    return TB_OK;
}

tb_status tb_bzip2_entropy(const uint8_t *text, int64_t bytes, double *out)
{
    char path[] = "/tmp/tb-text-XXXXXX", command[64];
    int64_t packed = 0;
    int fd = mkstemp(path);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "wb");
    if (!f) return TB_FAIL(TB_ERR_IO, "%s: %s", path, strerror(errno));
    bool written = fwrite(text, 1, (size_t)bytes, f) == (size_t)bytes;
    written &= fclose(f) == 0;
    snprintf(command, sizeof command, "bzip2 -9c %s", path);
    tb_status st = written ? count_output(command, &packed) : TB_FAIL(TB_ERR_IO, "%s: %s", path, strerror(errno));
    unlink(path);
    *out = (double)packed * 8 * log(2) / (double)bytes;
    return st;
}
