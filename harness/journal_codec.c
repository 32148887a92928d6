/* Encoding and scanning of journal records (journal_codec.h). */
#include "journal_codec.h"
#include <endian.h>
#include <string.h>

_Static_assert(__BYTE_ORDER == __LITTLE_ENDIAN, "journals are written as the bytes lie in memory");

enum { MAGIC = 0x314a4254 /* "TBJ1" */, HEADER = 20 };

uint32_t tb_crc32(uint32_t crc, const void *data, size_t bytes)
{
    static const uint32_t nibble[16] = {
        /* remainders of x^32 * k modulo the reflected polynomial 0xedb88320 */
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
    const uint8_t *p = data;
    crc = ~crc;
    for (size_t i = 0; i < bytes; i++) {
        crc = nibble[(crc ^ p[i]) & 15] ^ (crc >> 4);
        crc = nibble[(crc ^ (p[i] >> 4)) & 15] ^ (crc >> 4);
    }
    return ~crc;
}

static void put_u32(uint8_t *at, uint32_t v) { memcpy(at, &v, sizeof v); }

static uint32_t get_u32(const uint8_t *at)
{
    uint32_t v;
    memcpy(&v, at, sizeof v);
    return v;
}

static void encode_fields(const tb_record_type *t, const char *record, tb_text *to)
{
    for (int i = 0; i < t->n_fields; i++) {
        const char *member = record + t->fields[i].offset;
        if (t->fields[i].type > TB_FIELD_SHARED) {
            tb_text_add_bytes(to, member, 8);
            continue;
        }
        const char *text = *(const char *const *)(const void *)member;
        uint32_t length = text ? (uint32_t)strlen(text) : 0;
        tb_text_add_bytes(to, &length, sizeof length);
        tb_text_add_bytes(to, text ? text : "", length + 1);
    }
}

tb_status tb_record_encode(tb_record_kind kind, const void *record, tb_text *to)
{
    TB_TRY(tb_record_check(kind, record));
    size_t start = to->size;
    tb_text_add_bytes(to, (uint8_t[HEADER]){0}, HEADER);
    encode_fields(&tb_record_types[kind], record, to);
    if (kind == TB_RECORD_SAMPLES) {
        const tb_samples *s = record;
        int64_t has_steps = s->steps != NULL;
        tb_text_add_bytes(to, &has_steps, sizeof has_steps);
        tb_text_add_bytes(to, s->values, sizeof *s->values * (size_t)s->n);
        if (has_steps) tb_text_add_bytes(to, s->steps, sizeof *s->steps * (size_t)s->n);
    }
    if (to->failed) return TB_FAIL(TB_ERR_OOM, "journal: no memory for a record of kind %d", kind);
    size_t payload = to->size - start - HEADER;
    if (payload > UINT32_MAX)
        return TB_FAIL(TB_ERR_INVALID, "journal: a record of %zu bytes is too long", payload);
    uint8_t *header = (uint8_t *)to->data + start;
    put_u32(header, MAGIC);
    put_u32(header + 4, kind);
    put_u32(header + 8, (uint32_t)payload);
    put_u32(header + 12, tb_crc32(0, header + HEADER, payload));
    put_u32(header + 16, tb_crc32(0, header, 16));
    return TB_OK;
}

static tb_status malformed(tb_record_kind kind)
{
    return TB_FAIL(TB_ERR_PARSE, "journal: a record of kind %d is whole but not well formed", kind);
}

/* Fills members from the payload until it ends; returns the bytes used, or SIZE_MAX. */
static size_t decode_fields(const tb_record_type *t, const uint8_t *payload, size_t bytes, char *record)
{
    size_t at = 0;
    for (int i = 0; i < t->n_fields && at < bytes; i++) {
        bool text = t->fields[i].type <= TB_FIELD_SHARED;
        size_t need = text ? 4 : 8;
        if (bytes - at < need) return SIZE_MAX;
        if (text) {
            uint32_t length = get_u32(payload + at);
            if (bytes - at - need <= length || payload[at + need + length]) return SIZE_MAX;
            const char *s = (const char *)payload + at + need;
            memcpy(record + t->fields[i].offset, &s, sizeof s);
            need += (size_t)length + 1;
        } else {
            memcpy(record + t->fields[i].offset, payload + at, 8);
        }
        at += need;
    }
    return at;
}

static tb_status decode_arrays(tb_samples *s, const uint8_t *arrays, size_t bytes, tb_launch *to)
{
    int64_t has_steps = 0;
    if (bytes < 8 || s->n < 0) return malformed(TB_RECORD_SAMPLES);
    memcpy(&has_steps, arrays, 8);
    size_t columns = has_steps ? 2 : 1, n = (size_t)s->n;
    if (n > bytes / 8 || bytes - 8 < 8 * columns * n) return malformed(TB_RECORD_SAMPLES);
    double *values = tb_store_add(&to->store, 8 * columns * n); /* the payload is not aligned */
    if (!values) return tb_error_code();
    memcpy(values, arrays + 8, 8 * columns * n);
    s->values = values;
    s->steps = has_steps ? (const int64_t *)(const void *)(values + n) : NULL;
    return tb_launch_add(to, TB_RECORD_SAMPLES, s);
}

tb_status tb_record_decode(tb_record_kind kind, const uint8_t *payload, size_t bytes, tb_launch *to)
{
    if (kind <= TB_RECORD_NONE || kind >= TB_RECORD_KINDS) return TB_OK; /* of a newer minor version */
    const tb_record_type *t = &tb_record_types[kind];
    union { /* room for any record */
        tb_point point;
        tb_metric metric;
        tb_samples samples;
        tb_event event;
        tb_check check;
        tb_end end;
        char bytes[256];
    } record;
    _Static_assert(sizeof record >= sizeof(tb_point) && sizeof record >= sizeof(tb_event),
                   "no record is larger");
    memset(&record, 0, sizeof record);
    for (int i = 0; i < t->n_fields; i++)
        if (t->fields[i].type <= TB_FIELD_SHARED)
            *(const char **)(void *)(record.bytes + t->fields[i].offset) = "";
    size_t used = decode_fields(t, payload, bytes, record.bytes);
    if (used == SIZE_MAX || tb_record_check(kind, &record) != TB_OK) return malformed(kind);
    if (kind == TB_RECORD_SAMPLES) return decode_arrays(&record.samples, payload + used, bytes - used, to);
    return tb_launch_add(to, kind, &record);
}

static bool header_intact(const tb_record_scan *s, size_t at)
{
    const uint8_t *h = s->data + at;
    return s->bytes - at >= HEADER && get_u32(h) == MAGIC && tb_crc32(0, h, 16) == get_u32(h + 16);
}

static bool payload_whole(const tb_record_scan *s, size_t at)
{
    return s->bytes - at - HEADER >= get_u32(s->data + at + 8);
}

static bool payload_intact(const tb_record_scan *s, size_t at)
{
    const uint8_t *h = s->data + at;
    return tb_crc32(0, h + HEADER, get_u32(h + 8)) == get_u32(h + 12);
}

bool tb_record_next(tb_record_scan *s)
{
    bool lost = false; /* inside a stretch that is no record */
    for (size_t at = s->at; at < s->bytes; at++) {
        if (!header_intact(s, at)) {
            lost = true;
            continue;
        }
        if (!payload_whole(s, at)) break;
        const uint8_t *h = s->data + at;
        s->payload_bytes = get_u32(h + 8);
        s->at = s->end = at + HEADER + s->payload_bytes;
        s->damaged += lost;
        lost = false;
        if (payload_intact(s, at)) {
            s->kind = (tb_record_kind)get_u32(h + 4);
            s->payload = h + HEADER;
            return true;
        }
        s->damaged++;
        at = s->at - 1;
    }
    s->at = s->bytes;
    return false;
}
