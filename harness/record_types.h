/* The one description of the record structs, from which the journal's codec and the HDF5 tables are made: adding a
 * member to a struct of record.h and a line to record_types.c stores it in both. Members are only ever appended. */
#pragma once
#include "record.h"

typedef enum tb_field_type {
    TB_FIELD_STR,    /* const char * */
    TB_FIELD_SHARED, /* const char *, equal in all launches of a point and long: HDF5 keeps it once */
    TB_FIELD_INT,    /* int64_t */
    TB_FIELD_NUM,    /* double */
} tb_field_type;

typedef struct tb_field {
    const char *name;
    tb_field_type type;
    size_t offset;
} tb_field;

typedef enum tb_record_kind { /* stored in journals: never renumber */
    TB_RECORD_NONE,
    TB_RECORD_POINT,
    TB_RECORD_FACT,
    TB_RECORD_METRIC,
    TB_RECORD_SAMPLES,
    TB_RECORD_VALUE,
    TB_RECORD_ARTEFACT,
    TB_RECORD_EVENT,
    TB_RECORD_CHECK,
    TB_RECORD_END,
    TB_RECORD_KINDS
} tb_record_kind;

typedef struct tb_record_type {
    const char *name; /* of the HDF5 table */
    size_t size;
    const tb_field *fields;
    int n_fields;
    size_t at;        /* offset in tb_launch of the list, or of the struct itself */
    size_t count_at;  /* offset of the list's count; 0: not a list */
} tb_record_type;

extern const tb_record_type tb_record_types[TB_RECORD_KINDS];
extern const tb_record_type tb_summary_type;

/* Refuses what could not be stored: samples and artefacts are found by their name, which must be 1 to 100 bytes
 * without '/'; samples belong to a rank in 0 .. 65535. */
TB_MUST_USE tb_status tb_record_check(tb_record_kind kind, const void *record);

/* Puts a record into its place in the launch; strings stay borrowed. Samples are joined to their series. */
TB_MUST_USE tb_status tb_launch_add(tb_launch *launch, tb_record_kind kind, const void *record);
