/* How a record lies in a journal: a 20-byte header {magic "TBJ1", kind, payload bytes, CRC-32 of the payload,
 * CRC-32 of the 16 bytes before} and the payload. The payload holds the members in the order of record_types.c:
 * text as u32 length, bytes and a zero; integers and numbers as 8 bytes; samples then carry their arrays. All is
 * little-endian. Members that an older writer did not know read as "" or 0. */
#pragma once
#include "record_types.h"
#include "tb_text.h"
#include <stdbool.h>

uint32_t tb_crc32(uint32_t crc, const void *data, size_t bytes); /* IEEE 802.3, as zlib's; start with 0 */

/* Appends one whole record to `to`. */
TB_MUST_USE tb_status tb_record_encode(tb_record_kind kind, const void *record, tb_text *to);
/* Adds a payload to the launch; its strings stay in the payload. TB_ERR_PARSE when it is not well formed. */
TB_MUST_USE tb_status tb_record_decode(tb_record_kind kind, const uint8_t *payload, size_t bytes, tb_launch *to);

/* Walks over the complete records in a byte range. */
typedef struct tb_record_scan {
    const uint8_t *data;
    size_t bytes, at;
    size_t end;             /* behind the last whole record so far */
    int64_t damaged;        /* stretches that were passed over */
    tb_record_kind kind;    /* of the current record */
    const uint8_t *payload;
    size_t payload_bytes;
} tb_record_scan;
bool tb_record_next(tb_record_scan *scan); /* false at the end */
