/* Topology and binding by hwloc, the only user of it. Each call loads the topology anew (milliseconds): it is
 * asked for once or twice in a process, and a kept one would be a mutable global. */
#include "tb_alloc.h"
#include "tb_topo.h"
#include <errno.h>
#include <hwloc.h>
#include <string.h>

static tb_status load(hwloc_topology_t *out)
{
    hwloc_topology_t t;
    *out = NULL;
    if (hwloc_topology_init(&t) < 0) return TB_FAIL(TB_ERR_OOM, "hwloc: cannot create a topology");
    if (hwloc_topology_load(t) < 0) {
        hwloc_topology_destroy(t);
        return TB_FAIL(TB_ERR_INTERNAL, "hwloc: cannot load this machine's topology: %s", strerror(errno));
    }
    *out = t;
    return TB_OK;
}

/* One processor per core that `allowed` touches; where the machine does not tell cores, every processor. */
static void list_cores(hwloc_topology_t t, hwloc_const_cpuset_t allowed, tb_topo *out)
{
    hwloc_obj_type_t type = hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_CORE) > 0 ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
    int max = (int)(sizeof out->cores / sizeof out->cores[0]);
    for (hwloc_obj_t core = NULL; (core = hwloc_get_next_obj_by_type(t, type, core)) && out->n_cores < max;) {
        for (int pu = hwloc_bitmap_first(core->cpuset); pu >= 0; pu = hwloc_bitmap_next(core->cpuset, pu)) {
            if (!hwloc_bitmap_isset(allowed, (unsigned)pu)) continue;
            out->cores[out->n_cores++] = pu;
            break;
        }
    }
}

static int64_t cache_bytes(hwloc_topology_t t, const tb_topo *topo, hwloc_obj_type_t type)
{
    if (topo->n_cores == 0) return 0;
    hwloc_obj_t pu = hwloc_get_pu_obj_by_os_index(t, (unsigned)topo->cores[0]);
    hwloc_obj_t cache = pu ? hwloc_get_ancestor_obj_by_type(t, type, pu) : NULL;
    return cache ? (int64_t)cache->attr->cache.size : 0;
}

tb_status tb_topo_load(tb_topo *out)
{
    *out = (tb_topo){0};
    hwloc_topology_t t;
    TB_TRY(load(&t));
    hwloc_cpuset_t allowed = hwloc_bitmap_alloc();
    if (!allowed) {
        hwloc_topology_destroy(t);
        return TB_FAIL(TB_ERR_OOM, "hwloc: no memory for a cpuset");
    }
    if (hwloc_get_cpubind(t, allowed, HWLOC_CPUBIND_PROCESS) < 0)
        hwloc_bitmap_copy(allowed, hwloc_topology_get_allowed_cpuset(t));
    list_cores(t, allowed, out);
    out->n_numa = hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_NUMANODE);
    out->l1d_bytes = cache_bytes(t, out, HWLOC_OBJ_L1CACHE);
    out->l2_bytes = cache_bytes(t, out, HWLOC_OBJ_L2CACHE);
    out->l3_bytes = cache_bytes(t, out, HWLOC_OBJ_L3CACHE);
    hwloc_bitmap_free(allowed);
    hwloc_topology_destroy(t);
    if (out->n_cores == 0) return TB_FAIL(TB_ERR_INTERNAL, "hwloc: no core that this process may run on");
    return TB_OK;
}

tb_status tb_topo_bind_thread(const int *cores, int n_cores)
{
    if (n_cores < 1) return TB_FAIL(TB_ERR_INVALID, "bind: no cores given");
    hwloc_topology_t t;
    TB_TRY(load(&t));
    tb_status st = TB_OK;
    hwloc_cpuset_t set = hwloc_bitmap_alloc();
    for (int i = 0; set && i < n_cores; i++) hwloc_bitmap_set(set, (unsigned)cores[i]);
    if (!set) st = TB_FAIL(TB_ERR_OOM, "hwloc: no memory for a cpuset");
    else if (hwloc_set_cpubind(t, set, HWLOC_CPUBIND_THREAD) < 0)
        st = TB_FAIL(TB_ERR_INVALID, "bind: the system refuses %d core(s) from processor %d on: %s", n_cores,
                     cores[0], strerror(errno));
    hwloc_bitmap_free(set);
    hwloc_topology_destroy(t);
    return st;
}

tb_status tb_topo_xml(char **out)
{
    *out = NULL;
    hwloc_topology_t t;
    TB_TRY(load(&t));
    char *xml = NULL;
    int bytes = 0;
    int rc = hwloc_topology_export_xmlbuffer(t, &xml, &bytes, 0);
    if (rc == 0)
        *out = tb_strndup(xml, bytes > 0 && xml[bytes - 1] == '\0' ? (size_t)bytes - 1 : (size_t)bytes);
    hwloc_free_xmlbuffer(t, xml);
    hwloc_topology_destroy(t);
    if (rc != 0) return TB_FAIL(TB_ERR_INTERNAL, "hwloc: cannot export the topology: %s", strerror(errno));
    return *out ? TB_OK : TB_ERR_OOM;
}
