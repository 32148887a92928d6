/* Collects the facts (provenance.h). What a file of /proc or /sys does not offer on this machine is
 * "unknown": absent information is information. The environment is an allow-list, because a result file is
 * published. */
#include "provenance.h"
#include "build_info.h"
#include "h5.h"
#include "tb_alloc.h"
#include "tb_cpu.h"
#include "tb_hash.h"
#include "tb_text.h"
#include "tb_topo.h"
#include <gnu/libc-version.h>
#include <libgen.h>
#include <link.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

typedef struct fact_list {
    tb_fact *facts;
    int n;
    tb_store store; /* of keys and values */
    tb_status status;
} fact_list;

static char *keep(fact_list *l, const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = tb_store_add(&l->store, bytes);
    return copy ? memcpy(copy, text, bytes) : NULL;
}

static void add(fact_list *l, const char *key, const char *value)
{
    if (l->status != TB_OK) return;
    tb_fact *more = tb_realloc(l->facts, sizeof *more * (size_t)(l->n + 1));
    if (more) l->facts = more;
    char *k = keep(l, key), *v = keep(l, value && value[0] ? value : "unknown");
    if (more && k && v)
        more[l->n++] = (tb_fact){k, v, -1};
    else
        l->status = tb_error_code();
}

static void TB_PRINTF(3, 4) addf(fact_list *l, const char *key, const char *fmt, ...)
{
    char value[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(value, sizeof value, fmt, args);
    va_end(args);
    add(l, key, value);
}

static void trim(char *text)
{
    size_t n = strlen(text);
    while (n && (text[n - 1] == '\n' || text[n - 1] == ' ')) text[--n] = '\0';
}

static bool first_line(const char *path, char *line, int room)
{
    FILE *f = fopen(path, "re");
    bool found = f && fgets(line, room, f);
    if (f) fclose(f);
    if (!found) line[0] = '\0';
    trim(line);
    return found && line[0];
}

static void add_file(fact_list *l, const char *key, const char *path)
{
    char line[512];
    first_line(path, line, sizeof line);
    add(l, key, line);
}

/* The value of the first "member : value" line of a file such as /proc/cpuinfo; "" when there is none. */
static void member_of(const char *path, const char *member, char *value, int room)
{
    char line[8192];
    FILE *f = fopen(path, "re");
    value[0] = '\0';
    while (f && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (!colon || strncmp(line, member, strlen(member))) continue;
        snprintf(value, (size_t)room, "%s", colon + 1 + strspn(colon + 1, " \t"));
        break;
    }
    if (f) fclose(f);
    trim(value);
}

static void add_member(fact_list *l, const char *key, const char *path, const char *member)
{
    char value[256];
    member_of(path, member, value, sizeof value);
    add(l, key, value);
}

static int count_object(struct dl_phdr_info *object, size_t bytes, void *arg)
{
    (void)bytes;
    char path[4096], key[256], hash[TB_SHA256_HEX];
    fact_list *l = arg;
    if (!object->dlpi_name[0] || !realpath(object->dlpi_name, path)) return 0;
    char *asked = strrchr(object->dlpi_name, '/'), *real = basename(path);
    snprintf(key, sizeof key, "lib/%s", asked ? asked + 1 : object->dlpi_name);
    add(l, key, real); /* libhwloc.so.15 -> libhwloc.so.15.6.1: the version that ran */
    if (!strncmp(real, "libtensorbrain", 14) && tb_sha256_of_file(object->dlpi_name, hash) == TB_OK)
        add(l, "build/library_sha256", hash);
    return 0;
}

static void add_build(fact_list *l)
{
    char hash[TB_SHA256_HEX] = "", version[16];
    add(l, "build/git_sha", tb_build.git_sha);
    add(l, "build/git_dirty", tb_build.git_dirty);
    if (tb_build.diff_sha256[0]) add(l, "build/diff_sha256", tb_build.diff_sha256);
    add(l, "build/compiler", tb_build.compiler);
    add(l, "build/flags", tb_build.flags);
    add(l, "build/type", tb_build.type);
    add(l, "build/sanitize", tb_build.sanitize[0] ? tb_build.sanitize : "none");
    if (tb_sha256_of_file("/proc/self/exe", hash) != TB_OK) tb_error_clear();
    add(l, "build/binary_sha256", hash);
    dl_iterate_phdr(count_object, l);
    tb_h5_version(version);
    add(l, "lib/hdf5", version);
    add(l, "lib/libc", gnu_get_libc_version());
}

static void name_build(const char *binary, const char *library, char out[TB_BUILD_ROOM])
{
    snprintf(out, TB_BUILD_ROOM, "%s %s", binary ? binary : "", library ? library : "");
}

tb_status tb_provenance_build(char out[TB_BUILD_ROOM])
{
    fact_list own = {0};
    const char *binary = NULL, *library = NULL;
    add_build(&own);
    for (int i = 0; i < own.n; i++) {
        if (strcmp(own.facts[i].key, "build/binary_sha256") == 0) binary = own.facts[i].value;
        if (strcmp(own.facts[i].key, "build/library_sha256") == 0) library = own.facts[i].value;
    }
    name_build(binary, library, out);
    tb_status st = own.status;
    tb_free(own.facts);
    tb_store_free(&own.store);
    return st;
}

void tb_provenance_build_of(const tb_launch *launch, char out[TB_BUILD_ROOM])
{
    name_build(tb_launch_fact(launch, "build/binary_sha256"), tb_launch_fact(launch, "build/library_sha256"), out);
}

/* All that a command prints, or false. The folder is quoted for the shell by taking it from the environment.
 */
static bool output_of(const char *command, const char *folder, tb_text *out)
{
    char block[4096];
    setenv("TB_PROVENANCE_DIR", folder, 1);
    FILE *p = popen(command, "re");
    size_t got;
    while (p && (got = fread(block, 1, sizeof block, p)) > 0) tb_text_add_bytes(out, block, got);
    unsetenv("TB_PROVENANCE_DIR");
    return p && pclose(p) == 0 && !out->failed;
}

static void add_source(fact_list *l, const char *folder)
{
    if (!folder) return;
    char hash[TB_SHA256_HEX] = "", sha[64] = "";
    tb_text head = {0}, diff = {0};
    if (output_of("git -C \"$TB_PROVENANCE_DIR\" rev-parse HEAD 2>/dev/null", folder, &head))
        snprintf(sha, sizeof sha, "%s", tb_text_str(&head));
    trim(sha);
    add(l, "source/git_sha", sha);
    if (sha[0] &&
        output_of("git -C \"$TB_PROVENANCE_DIR\" diff HEAD -- . ':!results' 2>/dev/null", folder, &diff)) {
        add(l, "source/git_dirty", diff.size ? "1" : "0");
        if (diff.size && tb_sha256_of(diff.data, diff.size, hash) == TB_OK)
            add(l, "source/diff_sha256", hash);
    }
    tb_text_free(&head);
    tb_text_free(&diff);
}

static void add_mitigations(fact_list *l)
{
    static const char *const names[] = {"spectre_v1", "spectre_v2", "meltdown", "mds",
                                        "l1tf",       "retbleed",   "srso"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[128], key[64];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/vulnerabilities/%s", names[i]);
        snprintf(key, sizeof key, "host/mitigation.%s", names[i]);
        if (access(path, R_OK) == 0) add_file(l, key, path);
    }
}

static void add_host(fact_list *l)
{
    struct utsname system;
    char flags[8192];
    tb_isa isa;
    add(l, "host/cpu", tb_cpu_model());
    add_member(l, "host/microcode", "/proc/cpuinfo", "microcode");
    add(l, "host/isa", tb_isa_name(tb_isa_detect()));
    add(l, "host/isa_allowed", tb_isa_allowed(&isa) == TB_OK ? tb_isa_name(isa) : "");
    add(l, "host/bf16", tb_cpu_has_bf16() ? "1" : "0");
    addf(l, "host/cores_online", "%ld", sysconf(_SC_NPROCESSORS_ONLN));
    tb_topo *topo = tb_calloc(1, sizeof *topo);
    if (topo && tb_topo_load(topo) == TB_OK) {
        addf(l, "host/cores_allowed", "%d", topo->n_cores);
        addf(l, "host/numa_nodes", "%d", topo->n_numa);
        addf(l, "host/cache_bytes", "l1d %lld, l2 %lld, l3 %lld", (long long)topo->l1d_bytes,
             (long long)topo->l2_bytes, (long long)topo->l3_bytes);
    }
    tb_free(topo);
    add_member(l, "host/ram", "/proc/meminfo", "MemTotal");
    if (uname(&system) == 0)
        addf(l, "host/kernel", "%s %s %s", system.sysname, system.release, system.machine);
    member_of("/proc/cpuinfo", "flags", flags, sizeof flags);
    add(l, "host/virtual", strstr(flags, " hypervisor") ? "1" : "0");
    add_file(l, "host/product", "/sys/class/dmi/id/product_name");
    add_file(l, "host/governor", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    add_file(l, "host/boost", "/sys/devices/system/cpu/cpufreq/boost");
    add_file(l, "host/clocksource", "/sys/devices/system/clocksource/clocksource0/current_clocksource");
    add_file(l, "host/thp", "/sys/kernel/mm/transparent_hugepage/enabled");
    add_file(l, "host/aslr", "/proc/sys/kernel/randomize_va_space");
    add_file(l, "host/smt", "/sys/devices/system/cpu/smt/active");
    add_file(l, "host/cgroup_cpu_max", "/sys/fs/cgroup/cpu.max");
    add_file(l, "host/cgroup_memory_max", "/sys/fs/cgroup/memory.max");
    add_file(l, "host/psi_cpu", "/proc/pressure/cpu");
    add_mitigations(l);
}

static void add_environment(fact_list *l)
{
    static const char *const allowed[] = {"OMP_",      "GOMP_",      "KMP_",
                                          "OPENBLAS_", "MKL_",       "DNNL_",
                                          "MALLOC_",   "OMPI_MCA_",  "CUDA_VISIBLE_DEVICES",
                                          "TB_",       "LD_PRELOAD="};
    for (char **e = environ; e && *e; e++)
        for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++) {
            const char *equals = strchr(*e, '=');
            char key[128];
            if (!equals || strncmp(*e, allowed[i], strlen(allowed[i]))) continue;
            snprintf(key, sizeof key, "env/%.*s", (int)(equals - *e), *e);
            add(l, key, equals + 1);
        }
}

static void add_run(fact_list *l, const tb_provenance *in)
{
    char utc[32];
    time_t now = time(NULL);
    struct tm parts;
    tb_text argv = {0};
    for (int i = 0; i < in->argc; i++) tb_text_add(&argv, "%s%s", i ? " " : "", in->argv[i]);
    add(l, "run/argv", tb_text_str(&argv));
    tb_text_free(&argv);
    strftime(utc, sizeof utc, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &parts));
    add(l, "run/utc", utc);
    if (in->mpi_library) add(l, "mpi/library", in->mpi_library);
}

static void collect(const tb_provenance *in, fact_list *l)
{
    add_build(l);
    add_source(l, in->source_dir);
    add_host(l);
    add_environment(l);
    add_run(l, in);
}

static void free_list(fact_list *l)
{
    tb_store_free(&l->store);
    tb_free(l->facts);
}

static tb_status write_list(tb_journal *j, const fact_list *l, int64_t rank)
{
    TB_TRY(l->status);
    for (int i = 0; i < l->n; i++)
        TB_TRY(tb_journal_fact(j, &(tb_fact){l->facts[i].key, l->facts[i].value, rank}));
    return TB_OK;
}

tb_status tb_provenance_write(tb_journal *j, const tb_provenance *in)
{
    fact_list l = {0};
    collect(in, &l);
    tb_status st = write_list(j, &l, -1);
    free_list(&l);
    char *xml = NULL;
    if (st == TB_OK) st = tb_topo_xml(&xml);
    if (st == TB_OK) st = tb_journal_artefact(j, &(tb_artefact){"hwloc_xml", xml, -1});
    tb_free(xml);
    return st;
}

static void add_cpuset(fact_list *l)
{
    cpu_set_t set;
    tb_text cores = {0};
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        for (int c = 0; c < CPU_SETSIZE; c++)
            if (CPU_ISSET(c, &set)) tb_text_add(&cores, "%s%d", cores.size ? "," : "", c);
    add(l, "rank/cpuset", tb_text_str(&cores));
    tb_text_free(&cores);
}

tb_status tb_provenance_write_rank(tb_journal *j, int rank)
{
    fact_list l = {0};
    char host[256] = "";
    if (gethostname(host, sizeof host - 1)) host[0] = '\0';
    add(&l, "rank/host", host);
    addf(&l, "rank/pid", "%d", (int)getpid());
    add_cpuset(&l);
    add_member(&l, "rank/mems_allowed", "/proc/self/status", "Mems_allowed_list");
    tb_status st = write_list(j, &l, rank);
    free_list(&l);
    return st;
}

tb_status tb_provenance_print(const tb_provenance *in, bool json, FILE *to)
{
    fact_list l = {0};
    tb_text text = {0};
    tb_json out = {.to = &text, .pretty = true};
    collect(in, &l);
    if (json) tb_json_open(&out, '{');
    for (int i = 0; i < l.n; i++) {
        if (json) {
            tb_json_put_str(&out, l.facts[i].key, l.facts[i].value);
        } else {
            tb_text_add(&text, "%-28s %s\n", l.facts[i].key, l.facts[i].value);
        }
    }
    if (json) tb_json_close(&out, '}');
    tb_status st = l.status;
    if (st == TB_OK && text.failed) st = tb_error_code();
    if (st == TB_OK) fprintf(to, "%s%s", tb_text_str(&text), json ? "\n" : "");
    tb_text_free(&text);
    free_list(&l);
    return st;
}
