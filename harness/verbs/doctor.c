/* tb doctor: is this machine fit for numbers that people believe? What it finds labels results; it refuses
 * nothing. */
#include "noise.h"
#include "tb_cpu.h"
#include "tb_text.h"
#include "tb_topo.h"
#include "tb_verb.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FINDINGS_MAX = 24 };

typedef struct finding {
    const char *name;
    bool good;
    char value[160];
    const char *advice; /* when it is not good */
} finding;

typedef struct findings {
    finding at[FINDINGS_MAX];
    int n;
} findings;

static finding *add(findings *f, const char *name, bool good, const char *advice)
{
    finding *one = &f->at[f->n < FINDINGS_MAX ? f->n++ : FINDINGS_MAX - 1];
    *one = (finding){.name = name, .good = good, .advice = advice};
    return one;
}

/* First line of a file under /sys or /proc; false when there is none. */
static bool read_line(const char *path, char *out, size_t bytes)
{
    FILE *file = fopen(path, "r");
    bool ok = file && fgets(out, (int)bytes, file);
    if (ok) out[strcspn(out, "\n")] = '\0';
    if (file) fclose(file);
    return ok;
}

static void look_at_frequency(findings *f)
{
    char line[128] = "";
    bool known = read_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", line, sizeof line);
    finding *one = add(f, "governor", !known || strcmp(line, "performance") == 0,
                       "cpupower frequency-set -g performance, so that the clock does not follow the load");
    snprintf(one->value, sizeof one->value, "%s", known ? line : "not told (a virtual machine)");
    known = read_line("/sys/devices/system/cpu/cpufreq/boost", line, sizeof line);
    one = add(f, "boost", !known || strcmp(line, "0") == 0,
              "echo 0 > /sys/devices/system/cpu/cpufreq/boost for steady clocks; results say that it was on");
    snprintf(one->value, sizeof one->value, "%s",
             !known                   ? "not told"
             : strcmp(line, "0") == 0 ? "off"
                                      : "on");
}

static void look_at_memory(findings *f)
{
    char line[128] = "";
    bool known = read_line("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof line);
    finding *one =
        add(f, "huge pages", !known || !strstr(line, "[never]"),
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled: large buffers ask for them");
    snprintf(one->value, sizeof one->value, "%s", known ? line : "not told");
    long long available_kib = 0;
    FILE *file = fopen("/proc/meminfo", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %lld", &available_kib) == 1) break;
    if (file) fclose(file);
    one = add(f, "memory", available_kib > 2 << 20, "less than 2 GiB free: large models will swap or fail");
    snprintf(one->value, sizeof one->value, "%.1f GiB available", (double)available_kib / (1 << 20));
}

static void look_at_cores(findings *f, const tb_topo *topo)
{
    char line[128] = "";
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    finding *one =
        add(f, "cores", topo->n_cores >= 2, "one core: points with several ranks will be oversubscribed");
    snprintf(one->value, sizeof one->value, "%d of %ld processors, %d NUMA node%s", topo->n_cores, online,
             topo->n_numa, topo->n_numa == 1 ? "" : "s");
    bool known = read_line("/sys/fs/cgroup/cpu.max", line, sizeof line);
    one = add(f, "processor quota", !known || strncmp(line, "max", 3) == 0,
              "this container's time is cut into slices: latencies will show them");
    snprintf(one->value, sizeof one->value, "%s", known ? line : "none");
    tb_isa isa = TB_ISA_SCALAR;
    bool ok = tb_isa_allowed(&isa) == TB_OK;
    one = add(f, "instruction set", ok && isa == tb_isa_detect(),
              "TB_ISA holds kernels below what the processor has");
    snprintf(one->value, sizeof one->value, "%s on %.100s", tb_isa_name(isa), tb_cpu_model());
}

static void look_at_noise(findings *f, const tb_topo *topo)
{
    tb_noise noise;
    if (tb_noise_measure(&noise) != TB_OK) {
        snprintf(add(f, "noise", false, "it could not be measured")->value, 160, "%.150s",
                 tb_error_message());
        return;
    }
    finding *one = add(f, "load", noise.load_1min < 0.3 * topo->n_cores,
                       "something else runs here: wait, or expect noise");
    snprintf(one->value, sizeof one->value, "%.2f over the last minute", noise.load_1min);
    one = add(f, "pressure", isnan(noise.psi_some_percent) || noise.psi_some_percent < 5,
              "tasks wait for a processor; compare interleaved pairs only");
    if (isnan(noise.psi_some_percent)) snprintf(one->value, sizeof one->value, "not told by this kernel");
    else snprintf(one->value, sizeof one->value, "%.1f %% of the last 10 s", noise.psi_some_percent);
    one = add(f, "fixed work", noise.calib_p99_over_p50 < 1.1,
              "the same work takes different times: medians over launches");
    snprintf(one->value, sizeof one->value, "p99 / median %.2f, coefficient of variation %.2f",
             noise.calib_p99_over_p50, noise.calib_cv);
    one = add(f, "clock", noise.timer_overhead_ns < 200, "reading the clock is slow (not the tsc?)");
    snprintf(one->value, sizeof one->value, "step %.0f ns, a read takes %.0f ns", noise.timer_ns,
             noise.timer_overhead_ns);
    if (isnan(noise.core_to_core_ns)) return;
    one = add(f, "core to core", noise.core_to_core_ns < 500,
              "two cores talk slowly: different sockets, or hosts that move them");
    snprintf(one->value, sizeof one->value, "%.0f ns one way", noise.core_to_core_ns);
}

static bool in_path(const char *program)
{
    const char *path = getenv("PATH");
    char candidate[4096];
    for (const char *at = path; at && *at; at += strcspn(at, ":"), at += *at == ':') {
        snprintf(candidate, sizeof candidate, "%.*s/%s", (int)strcspn(at, ":"), at, program);
        if (access(candidate, X_OK) == 0) return true;
    }
    return false;
}

static int doctor(const tb_args *args)
{
    findings f = {0};
    tb_topo topo;
    if (tb_topo_load(&topo) != TB_OK) return tb_report(stderr);
    bool mpirun = in_path("mpirun");
    snprintf(
        add(&f, "mpirun", mpirun, "apt-get install openmpi-bin: nothing can be launched without it")->value,
        160, "%s", mpirun ? "found" : "missing");
    look_at_cores(&f, &topo);
    look_at_frequency(&f);
    look_at_memory(&f);
    look_at_noise(&f, &topo);
    if (tb_args_has(args, "json")) {
        tb_text text = {0};
        tb_json j = {.to = &text, .pretty = true};
        tb_json_open(&j, '[');
        for (int i = 0; i < f.n; i++) {
            tb_json_open(&j, '{');
            tb_json_put_str(&j, "name", f.at[i].name);
            tb_json_put_bool(&j, "good", f.at[i].good);
            tb_json_put_str(&j, "value", f.at[i].value);
            tb_json_put_str(&j, "advice", f.at[i].good ? NULL : f.at[i].advice);
            tb_json_close(&j, '}');
        }
        tb_json_close(&j, ']');
        printf("%s", tb_text_str(&text));
        tb_text_free(&text);
    } else {
        for (int i = 0; i < f.n; i++) {
            printf("%-5s %-16s %s\n", f.at[i].good ? "ok" : "look", f.at[i].name, f.at[i].value);
            if (!f.at[i].good) printf("%-22s %s\n", "", f.at[i].advice);
        }
    }
    return mpirun ? 0 : 3;
}

static const tb_option options[] = {{"json", 0, NULL, "as JSON"}};

TB_VERB(doctor, .group = TB_VERB_MACHINE, .args = "", .min_args = 0, .max_args = 0,
        .doc = "Is this machine quiet enough for numbers? With advice", .options = options, .n_options = 1,
        .run = doctor);
