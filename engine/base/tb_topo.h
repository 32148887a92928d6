/* The machine's topology and thread binding; the only user of hwloc. Core numbers are operating system indices. */
#pragma once
#include "tb_status.h"
#include <stdint.h>

typedef struct tb_topo {
    int n_cores;        /* cores this process may run on (its cpuset), one entry per core, not per hyper-thread */
    int cores[1024];    /* their OS processor indices, in topology order */
    int n_numa;
    int64_t l1d_bytes, l2_bytes, l3_bytes; /* of the first core; 0 if unknown */
} tb_topo;

TB_MUST_USE tb_status tb_topo_load(tb_topo *out);
TB_MUST_USE tb_status tb_topo_bind_thread(const int *cores, int n_cores); /* the calling thread, to the set */
/* hwloc's XML description of the machine; the caller frees it with tb_free(). */
TB_MUST_USE tb_status tb_topo_xml(char **out);
