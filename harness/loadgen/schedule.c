/* Arrival times: pure functions of kind, rate, duration and seed. */
#include "tb_load.h"
#include "tb_alloc.h"
#include "tb_file.h"
#include "tb_rng.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = {"constant", "poisson", "gamma", "bursts", "ramp", "replay", "closed"};

const char *tb_arrivals_name(tb_arrivals kind) { return names[kind]; }

tb_status tb_arrivals_parse(const char *name, tb_arrivals *out)
{
    for (int i = 0; i <= TB_ARRIVALS_CLOSED; i++)
        if (strcmp(names[i], name) == 0) {
            *out = (tb_arrivals)i;
            return TB_OK;
        }
    return TB_FAIL(
        TB_ERR_CONFIG,
        "load: unknown arrivals '%s'; they are constant, poisson, gamma, bursts, ramp, replay, closed", name);
}

static double exponential(uint64_t seed, uint64_t stream, uint64_t i)
{
    return -log1p(-tb_random_uniform(seed, stream, i));
}

/* Marsaglia and Tsang, "A simple method for generating gamma variables" (2000); shape < 1 by the power trick.
 */
static double gamma_gap(double shape, uint64_t seed, uint64_t i)
{
    double boost = 1, a = shape;
    uint64_t stream = tb_stream_index(tb_stream_name(seed, "gamma"), i);
    if (a < 1) {
        boost = pow(1 - tb_random_uniform(seed, stream, 0), 1 / a);
        a += 1;
    }
    double d = a - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (uint64_t k = 1;; k += 2) {
        double x = tb_random_normal(seed, stream, 2 * k), v = 1 + c * x;
        double u = 1 - tb_random_uniform(seed, stream, 2 * k + 2);
        if (v <= 0) continue;
        v = v * v * v;
        if (log(u) < 0.5 * x * x + d - d * v + d * log(v)) return boost * d * v / shape;
    }
}

/* The time at which the rate's integral reaches `amount`: arrivals of unit rate become those of a varying
 * one. */
static double ramp_time(double amount, const tb_load_schedule *s)
{
    return sqrt(2 * amount * s->duration_s / s->rate);
}

static double bursts_time(double amount, const tb_load_schedule *s)
{
    double in_burst = s->rate * s->factor * s->burst_s, outside = s->rate * (s->period_s - s->burst_s);
    double periods = floor(amount / (in_burst + outside)), rest = amount - periods * (in_burst + outside);
    double at = rest < in_burst ? rest / (s->rate * s->factor) : s->burst_s + (rest - in_burst) / s->rate;
    return periods * s->period_s + at;
}

static tb_status replay(const tb_load_schedule *s, int64_t **at_ns, int64_t *n)
{
    uint8_t *text;
    size_t bytes;
    int64_t capacity = 0, before = 0;
    TB_TRY(tb_file_read(s->file, NULL, &text, &bytes));
    tb_status st = TB_OK;
    *n = 0;
    for (size_t at = 0; st == TB_OK && at < bytes;) {
        char line[32] = {0};
        size_t k = 0;
        while (at < bytes && text[at] != '\n' && k < sizeof line - 1) line[k++] = (char)text[at++];
        at += at < bytes && text[at] == '\n';
        if (k == 0) continue;
        char *end;
        int64_t t = strtoll(line, &end, 10);
        if (*end || t < before) {
            st = TB_FAIL(TB_ERR_PARSE, "%s: line %lld is no ascending time in nanoseconds", s->file,
                         (long long)*n + 1);
            break;
        }
        before = t;
        if (*n == capacity) {
            int64_t *more =
                tb_realloc(*at_ns, sizeof **at_ns * (size_t)(capacity = capacity ? 2 * capacity : 4096));
            if (!more) st = tb_error_code();
            else *at_ns = more;
        }
        if (st == TB_OK) (*at_ns)[(*n)++] = t;
    }
    tb_free(text);
    return st;
}

tb_status tb_load_schedule_make(const tb_load_schedule *given, int64_t **at_ns, int64_t *n)
{
    tb_load_schedule s = *given;
    if (s.shape <= 0) s.shape = 0.5;
    if (s.factor <= 0) s.factor = 5;
    if (s.burst_s <= 0) s.burst_s = 0.2;
    if (s.period_s <= 0) s.period_s = 1;
    *at_ns = NULL;
    *n = 0;
    if (s.kind == TB_ARRIVALS_CLOSED) return TB_OK;
    if (s.kind == TB_ARRIVALS_REPLAY) {
        tb_status st =
            s.file ? replay(&s, at_ns, n) : TB_FAIL(TB_ERR_CONFIG, "load: replay needs a file of times");
        if (st != TB_OK) tb_free(*at_ns), *at_ns = NULL;
        return st;
    }
    if (!(s.rate > 0) || !(s.duration_s > 0))
        return TB_FAIL(TB_ERR_CONFIG, "load: rate and duration must be above 0");
    if (s.kind == TB_ARRIVALS_BURSTS && s.burst_s > s.period_s)
        return TB_FAIL(TB_ERR_CONFIG, "load: a burst cannot be longer than its period");
    int64_t most =
        (int64_t)(s.rate * s.duration_s * (s.kind == TB_ARRIVALS_BURSTS ? s.factor : 1) * 1.5) + 10000;
    if (most > 100000000) return TB_FAIL(TB_ERR_CONFIG, "load: more than 100 million arrivals");
    *at_ns = tb_realloc(NULL, sizeof **at_ns * (size_t)most);
    if (!*at_ns) return tb_error_code();
    uint64_t stream = tb_stream_name(0, "arrivals");
    double sum = 0; /* of gaps at unit rate */
    for (uint64_t i = 0; *n < most; i++) {
        double t;
        if (s.kind == TB_ARRIVALS_CONSTANT) t = (double)i / s.rate;
        else {
            sum +=
                s.kind == TB_ARRIVALS_GAMMA ? gamma_gap(s.shape, s.seed, i) : exponential(s.seed, stream, i);
            t = s.kind == TB_ARRIVALS_RAMP     ? ramp_time(sum, &s)
                : s.kind == TB_ARRIVALS_BURSTS ? bursts_time(sum, &s)
                                               : sum / s.rate;
        }
        if (t >= s.duration_s) break;
        (*at_ns)[(*n)++] = (int64_t)(t * 1e9);
    }
    if (*n == 0) {
        tb_free(*at_ns);
        *at_ns = NULL;
        return TB_FAIL(TB_ERR_CONFIG, "load: no arrival falls into %.3g s at %.3g a second", s.duration_s,
                       s.rate);
    }
    return TB_OK;
}
