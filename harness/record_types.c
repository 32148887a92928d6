/* The table of record_types.h. */
#include "record_types.h"

#define FIELD_AS(text, type, name, as) {text, TB_FIELD_##as, offsetof(type, name)}
#define STR(type, name) FIELD_AS(#name, type, name, STR)
#define SHARED(type, name) FIELD_AS(#name, type, name, SHARED)
#define INT(type, name) FIELD_AS(#name, type, name, INT)
#define NUM(type, name) FIELD_AS(#name, type, name, NUM)

static const tb_field point_fields[] = {
    STR(tb_point, experiment), STR(tb_point, driver),  STR(tb_point, profile),
    STR(tb_point, hash),       STR(tb_point, label),   FIELD_AS("resolved", tb_point, config, SHARED),
    SHARED(tb_point, source),  STR(tb_point, scope),   STR(tb_point, run),
    INT(tb_point, launch),     INT(tb_point, launches), INT(tb_point, ranks),
    INT(tb_point, threads),    INT(tb_point, seed),    INT(tb_point, utc_ns),
    SHARED(tb_point, question), SHARED(tb_point, plots),
};
static const tb_field fact_fields[] = {STR(tb_fact, key), STR(tb_fact, value), INT(tb_fact, rank)};
static const tb_field metric_fields[] = {
    STR(tb_metric, name),      STR(tb_metric, unit),   STR(tb_metric, dir),
    STR(tb_metric, kind),      STR(tb_metric, reduce), STR(tb_metric, scope),
    STR(tb_metric, statistic), NUM(tb_metric, margin), INT(tb_metric, deterministic),
};
/* the arrays are stored behind these (journal.c) */
static const tb_field samples_fields[] = {
    STR(tb_samples, metric),     INT(tb_samples, rank), INT(tb_samples, warmup),
    INT(tb_samples, first_step), INT(tb_samples, n),
};
static const tb_field value_fields[] = {STR(tb_value, name), STR(tb_value, unit), INT(tb_value, rank),
                                        NUM(tb_value, value)};
static const tb_field artefact_fields[] = {STR(tb_artefact, name), STR(tb_artefact, text),
                                           INT(tb_artefact, rank)};
static const tb_field event_fields[] = {
    STR(tb_event, name),  STR(tb_event, text),  INT(tb_event, rank),  INT(tb_event, track),
    INT(tb_event, index), INT(tb_event, t0_ns), INT(tb_event, t1_ns),
};
static const tb_field check_fields[] = {
    STR(tb_check, name),  STR(tb_check, kind),  STR(tb_check, message),
    NUM(tb_check, value), NUM(tb_check, limit), INT(tb_check, pass),
};
static const tb_field end_fields[] = {
    STR(tb_end, status), STR(tb_end, reason),      INT(tb_end, exit_code),
    INT(tb_end, signal), INT(tb_end, failed_rank), INT(tb_end, utc_ns),
};
static const tb_field summary_fields[] = {
    STR(tb_summary, metric),   STR(tb_summary, unit),       STR(tb_summary, dir),
    STR(tb_summary, scope),    INT(tb_summary, n_launches), INT(tb_summary, n_samples),
    INT(tb_summary, n_warmup), INT(tb_summary, n_outliers), NUM(tb_summary, value),
    NUM(tb_summary, lo),       NUM(tb_summary, hi),         NUM(tb_summary, level),
    STR(tb_summary, method),   NUM(tb_summary, min),        NUM(tb_summary, p25),
    NUM(tb_summary, p75),      NUM(tb_summary, p95),        NUM(tb_summary, p99),
    NUM(tb_summary, max),      NUM(tb_summary, mean),
};

#define FIELDS(of) of##_fields, (int)(sizeof of##_fields / sizeof *of##_fields)
#define LIST(of)   offsetof(tb_launch, of), offsetof(tb_launch, n_##of)

const tb_record_type tb_record_types[TB_RECORD_KINDS] = {
    [TB_RECORD_POINT] = {"launches", sizeof(tb_point), FIELDS(point), offsetof(tb_launch, point), 0},
    [TB_RECORD_FACT] = {"provenance", sizeof(tb_fact), FIELDS(fact), LIST(facts)},
    [TB_RECORD_METRIC] = {"metrics", sizeof(tb_metric), FIELDS(metric), LIST(metrics)},
    [TB_RECORD_SAMPLES] = {"samples", sizeof(tb_samples), FIELDS(samples), LIST(series)},
    [TB_RECORD_VALUE] = {"values", sizeof(tb_value), FIELDS(value), LIST(values)},
    [TB_RECORD_ARTEFACT] = {"text", sizeof(tb_artefact), FIELDS(artefact), LIST(artefacts)},
    [TB_RECORD_EVENT] = {"events", sizeof(tb_event), FIELDS(event), LIST(events)},
    [TB_RECORD_CHECK] = {"checks", sizeof(tb_check), FIELDS(check), LIST(checks)},
    [TB_RECORD_END] = {"ends", sizeof(tb_end), FIELDS(end), offsetof(tb_launch, end), 0},
};
const tb_record_type tb_summary_type = {"summary", sizeof(tb_summary), FIELDS(summary), 0, 0};
