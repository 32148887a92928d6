/* What the build knew about itself: harness/build_info.cmake writes the values anew whenever they change. */
#pragma once

typedef struct tb_build_info {
    const char *git_sha;     /* "" outside a git tree */
    const char *git_dirty;   /* "0", or "1" when tracked files differed from that commit */
    const char *diff_sha256; /* of that difference; "" when clean */
    const char *compiler;    /* "GNU 12.2.0" */
    const char *flags;       /* of C sources, from CMake */
    const char *type;        /* CMAKE_BUILD_TYPE */
    const char *sanitize;    /* TB_SANITIZE */
} tb_build_info;

extern const tb_build_info tb_build;
