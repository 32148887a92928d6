/* Log lines on stderr: "tb[rank 1] warn: ...". TB_LOG = error | warn (default) | info | debug. */
#pragma once
#include "tb_status.h"

typedef enum tb_log_level { TB_LOG_ERROR, TB_LOG_WARN, TB_LOG_INFO, TB_LOG_DEBUG } tb_log_level;
void tb_log_write(tb_log_level level, const char *fmt, ...) TB_PRINTF(2, 3);
void tb_log_set_rank(int rank); /* of the calling thread; < 0: none */
