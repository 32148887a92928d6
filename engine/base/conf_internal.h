/* Shared by conf_*.c: making and growing nodes. */
#pragma once
#include "tb_conf.h"

/* file may be NULL. Returns NULL without memory, record filled. */
tb_conf *tbi_conf_node(tb_conf_kind kind, const char *file);
/* Appends to a list (key NULL) or map; takes ownership of `item` also when it fails. */
TB_MUST_USE tb_status tbi_conf_append(tb_conf *to, const char *key, tb_conf *item);
