/* Paths. They are matched as sent: model names hold no character that would need an escape, so a path with
 * '%', '..' or any byte outside the names' alphabet matches nothing. */
#include "server.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *at;
    size_t bytes;
} piece;

static const struct {
    const char *path; /* {m} a model, {v} a version */
    tbi_endpoint endpoint;
    bool post;
} table[] = {
    {"", TBI_PAGE, false},
    {"page/state", TBI_PAGE_STATE, false},
    {"page/samples", TBI_PAGE_SAMPLES, false},
    {"v2", TBI_SERVER_METADATA, false},
    {"v2/health/live", TBI_LIVE, false},
    {"v2/health/ready", TBI_READY, false},
    {"v2/models/stats", TBI_MODEL_STATS, false},
    {"v2/models/{m}", TBI_MODEL, false},
    {"v2/models/{m}/ready", TBI_MODEL_READY_, false},
    {"v2/models/{m}/config", TBI_MODEL_CONFIG, false},
    {"v2/models/{m}/stats", TBI_MODEL_STATS, false},
    {"v2/models/{m}/infer", TBI_INFER, true},
    {"v2/models/{m}/generate", TBI_GENERATE, true},
    {"v2/models/{m}/generate_stream", TBI_GENERATE_STREAM, true},
    {"v2/models/{m}/versions/{v}", TBI_MODEL, false},
    {"v2/models/{m}/versions/{v}/ready", TBI_MODEL_READY_, false},
    {"v2/models/{m}/versions/{v}/config", TBI_MODEL_CONFIG, false},
    {"v2/models/{m}/versions/{v}/stats", TBI_MODEL_STATS, false},
    {"v2/models/{m}/versions/{v}/infer", TBI_INFER, true},
    {"v2/models/{m}/versions/{v}/generate", TBI_GENERATE, true},
    {"v2/models/{m}/versions/{v}/generate_stream", TBI_GENERATE_STREAM, true},
    {"v2/repository/index", TBI_INDEX, true},
    {"v2/repository/models/{m}/load", TBI_LOAD, true},
    {"v2/repository/models/{m}/unload", TBI_UNLOAD, true},
    {"metrics", TBI_METRICS, false},
    {"v2/timeline", TBI_TIMELINE, false},
    {"v2/decisions", TBI_DECISIONS, false},
    {"v1/predict", TBI_PREDICT, true},
};
enum { N_ROUTES = sizeof table / sizeof *table };

static bool name_char(char c) { return isalnum((unsigned char)c) || c == '_' || c == '-' || c == '.'; }

static bool take_name(const char **p, const char *end, piece *out)
{
    out->at = *p;
    while (*p < end && name_char(**p)) ++*p;
    out->bytes = (size_t)(*p - out->at);
    return out->bytes > 0 && out->at[0] != '.';
}

static bool matches(const char *pattern, const char *p, const char *end, tbi_route *r)
{
    while (*pattern) {
        piece name;
        if (*pattern == '{') {
            if (!take_name(&p, end, &name)) return false;
            if (pattern[1] == 'm') r->model = name.at, r->model_bytes = name.bytes;
            else r->version = name.at, r->version_bytes = name.bytes;
            pattern += 3;
        } else if (p == end || *pattern++ != *p++) {
            return false;
        }
    }
    return p == end;
}

tbi_route tbi_route_parse(const char *uri)
{
    const char *end = uri + strcspn(uri, "?");
    if (*uri == '/')
        for (int i = 0; i < N_ROUTES; i++) {
            tbi_route r = {.endpoint = table[i].endpoint, .last = 100};
            if (!matches(table[i].path, uri + 1, end, &r)) continue;
            if (strncmp(end, "?last=", 6) == 0) r.last = atoi(end + 6);
            if (r.last < 1) r.last = 1;
            return r;
        }
    return (tbi_route){.endpoint = TBI_NO_ENDPOINT};
}

bool tbi_route_is_post(tbi_endpoint e)
{
    for (int i = 0; i < N_ROUTES; i++)
        if (table[i].endpoint == e) return table[i].post;
    return false;
}

bool tbi_route_takes(tbi_endpoint e, const char *method)
{
    if (tbi_route_is_post(e)) return strcmp(method, "POST") == 0;
    return strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
}
