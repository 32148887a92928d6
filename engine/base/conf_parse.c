/* YAML text to a strict tree, by libyaml's event interface. The document interface would be shorter, but it
 * hides anchors and aliases, which we refuse: a reader of an experiment sees every value where it is used. */
#include "tb_alloc.h"
#include "tb_conf.h"
#include "conf_internal.h"
#include <errno.h>
#include <string.h>
#include <yaml.h>

enum { DEPTH_MAX = 32, FILE_BYTES_MAX = 16 << 20 };

typedef struct reader {
    yaml_parser_t parser;
    const char *name;
} reader;

static tb_status fail_at(const reader *r, yaml_mark_t at, const char *what)
{
    return TB_FAIL(TB_ERR_PARSE, "%s:%zu:%zu: %s", r->name, at.line + 1, at.column + 1, what);
}

static tb_status next_event(reader *r, yaml_event_t *event)
{
    if (yaml_parser_parse(&r->parser, event)) return TB_OK;
    if (r->parser.error == YAML_MEMORY_ERROR)
        return TB_FAIL(TB_ERR_OOM, "%s: no memory to parse it", r->name);
    const char *problem = r->parser.problem ? r->parser.problem : "not YAML";
    if (r->parser.error == YAML_READER_ERROR)
        return TB_FAIL(TB_ERR_PARSE, "%s: byte %zu: %s", r->name, r->parser.problem_offset, problem);
    return fail_at(r, r->parser.problem_mark, problem);
}

static tb_status refuse_decoration(const reader *r, const yaml_event_t *e, const yaml_char_t *anchor,
                                   const yaml_char_t *tag)
{
    if (anchor)
        return fail_at(r, e->start_mark,
                       "anchors (&name) are not accepted; write the value where it is used");
    if (tag) return fail_at(r, e->start_mark, "tags (!type) are not accepted; the key decides the type");
    return TB_OK;
}

static tb_status read_scalar(reader *r, const yaml_event_t *e, tb_conf *node)
{
    TB_TRY(refuse_decoration(r, e, e->data.scalar.anchor, e->data.scalar.tag));
    if (memchr(e->data.scalar.value, 0, e->data.scalar.length))
        return fail_at(r, e->start_mark, "a value holds a zero byte");
    node->text = tb_strndup((const char *)e->data.scalar.value, e->data.scalar.length);
    node->quoted = e->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    return node->text ? TB_OK : TB_ERR_OOM;
}

static tb_status read_node(reader *r, const yaml_event_t *e, int depth, tb_conf **out);

static tb_status read_list(reader *r, const yaml_event_t *start, int depth, tb_conf *list)
{
    TB_TRY(refuse_decoration(r, start, start->data.sequence_start.anchor, start->data.sequence_start.tag));
    for (;;) {
        yaml_event_t e;
        TB_TRY(next_event(r, &e));
        bool at_end = e.type == YAML_SEQUENCE_END_EVENT;
        tb_conf *item = NULL;
        tb_status st = at_end ? TB_OK : read_node(r, &e, depth + 1, &item);
        yaml_event_delete(&e);
        if (st == TB_OK && !at_end) st = tbi_conf_append(list, NULL, item);
        if (st != TB_OK || at_end) return st;
    }
}

static tb_status check_key(const reader *r, const yaml_event_t *e, const tb_conf *map)
{
    if (e->type != YAML_SCALAR_EVENT) return fail_at(r, e->start_mark, "a key must be a plain word");
    const char *key = (const char *)e->data.scalar.value;
    TB_TRY(refuse_decoration(r, e, e->data.scalar.anchor, e->data.scalar.tag));
    if (e->data.scalar.length == 0 || strlen(key) != e->data.scalar.length)
        return fail_at(r, e->start_mark, "a key is empty or holds a zero byte");
    if (strcmp(key, "<<") == 0)
        return fail_at(r, e->start_mark, "merge keys (<<) are not accepted; use extends:");
    for (int i = 0; i < map->n_items; i++)
        if (strcmp(map->keys[i], key) == 0)
            return TB_FAIL(TB_ERR_PARSE, "%s:%zu:%zu: duplicate key '%s'; it stands in line %d already",
                           r->name, e->start_mark.line + 1, e->start_mark.column + 1, key,
                           map->items[i]->line);
    return TB_OK;
}

static tb_status read_member(reader *r, const yaml_event_t *key, int depth, tb_conf *map)
{
    TB_TRY(check_key(r, key, map));
    yaml_event_t e;
    TB_TRY(next_event(r, &e));
    tb_conf *value = NULL;
    tb_status st = read_node(r, &e, depth + 1, &value);
    yaml_event_delete(&e);
    if (st != TB_OK) return st;
    value->line = (int)key->start_mark.line + 1;
    value->column = (int)key->start_mark.column + 1;
    return tbi_conf_append(map, (const char *)key->data.scalar.value, value);
}

static tb_status read_map(reader *r, const yaml_event_t *start, int depth, tb_conf *map)
{
    TB_TRY(refuse_decoration(r, start, start->data.mapping_start.anchor, start->data.mapping_start.tag));
    for (;;) {
        yaml_event_t e;
        TB_TRY(next_event(r, &e));
        bool at_end = e.type == YAML_MAPPING_END_EVENT;
        tb_status st = at_end ? TB_OK : read_member(r, &e, depth, map);
        yaml_event_delete(&e);
        if (st != TB_OK || at_end) return st;
    }
}

static tb_status read_node(reader *r, const yaml_event_t *e, int depth, tb_conf **out)
{
    if (depth > DEPTH_MAX) return fail_at(r, e->start_mark, "nested deeper than 32 levels");
    if (e->type == YAML_ALIAS_EVENT)
        return fail_at(r, e->start_mark,
                       "aliases (*name) are not accepted; write the value where it is used");
    tb_conf *node = tbi_conf_node(TB_CONF_SCALAR, r->name);
    if (!node) return TB_ERR_OOM;
    node->line = (int)e->start_mark.line + 1;
    node->column = (int)e->start_mark.column + 1;
    tb_status st;
    if (e->type == YAML_SCALAR_EVENT) {
        st = read_scalar(r, e, node);
    } else if (e->type == YAML_SEQUENCE_START_EVENT) {
        node->kind = TB_CONF_LIST;
        st = read_list(r, e, depth, node);
    } else {
        node->kind = TB_CONF_MAP;
        st = read_map(r, e, depth, node);
    }
    if (st == TB_OK) *out = node;
    else tb_conf_free(node);
    return st;
}

/* stream-start document-start NODE document-end stream-end; `*out` is the node. */
static tb_status read_stream(reader *r, tb_conf **out)
{
    int documents = 0;
    for (bool at_end = false; !at_end;) {
        yaml_event_t e;
        TB_TRY(next_event(r, &e));
        tb_status st = TB_OK;
        if (e.type == YAML_STREAM_END_EVENT) at_end = true;
        else if (e.type == YAML_DOCUMENT_START_EVENT && documents++)
            st = fail_at(r, e.start_mark, "a second document starts here; one file holds one");
        else if (e.type != YAML_STREAM_START_EVENT && e.type != YAML_DOCUMENT_START_EVENT &&
                 e.type != YAML_DOCUMENT_END_EVENT)
            st = read_node(r, &e, 0, out);
        yaml_event_delete(&e);
        if (st != TB_OK) return st;
    }
    return *out ? TB_OK : TB_FAIL(TB_ERR_PARSE, "%s: nothing in it", r->name);
}

tb_status tb_conf_parse(const char *text, size_t bytes, const char *name, tb_conf **out)
{
    *out = NULL;
    reader r = {.name = name};
    if (!yaml_parser_initialize(&r.parser)) return TB_FAIL(TB_ERR_OOM, "%s: no memory to parse it", name);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, bytes);
    tb_conf *root = NULL;
    tb_status st = read_stream(&r, &root);
    yaml_parser_delete(&r.parser);
    if (st == TB_OK) *out = root;
    else tb_conf_free(root);
    return st;
}

tb_status tb_conf_load(const char *path, tb_conf **out)
{
    *out = NULL;
    FILE *file = fopen(path, "rb");
    if (!file)
        return TB_FAIL(errno == ENOENT ? TB_ERR_NOT_FOUND : TB_ERR_IO, "%s: %s", path, strerror(errno));
    tb_status st = TB_OK;
    size_t bytes = 0, capacity = 1 << 14;
    char *text = tb_calloc(1, capacity);
    while (text && (bytes += fread(text + bytes, 1, capacity - bytes, file)) == capacity &&
           bytes < FILE_BYTES_MAX) {
        char *larger = tb_realloc(text, capacity *= 2);
        if (!larger) tb_free(text);
        text = larger;
    }
    if (!text) st = TB_ERR_OOM;
    else if (ferror(file)) st = TB_FAIL(TB_ERR_IO, "%s: cannot read: %s", path, strerror(errno));
    else if (bytes >= FILE_BYTES_MAX)
        st = TB_FAIL(TB_ERR_PARSE, "%s: larger than 16 MiB; this is no configuration", path);
    else st = tb_conf_parse(text, bytes, path, out);
    tb_free(text);
    fclose(file);
    return st;
}
