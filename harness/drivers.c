/* The generated table of drivers, and what drivers read. */
#include "tb_driver.h"
#include "tb_text.h"
#include <assert.h>
#include <string.h>

static const tb_driver *const all_drivers[] = {
#define TB_DRIVER_ENTRY(name) &tb_driver_##name,
#include "tb_driver_list.inc"
#undef TB_DRIVER_ENTRY
};

int tb_driver_count(void) { return (int)(sizeof all_drivers / sizeof all_drivers[0]); }

const tb_driver *tb_driver_at(int index) { return all_drivers[index]; }

const tb_driver *tb_driver_find(const char *name)
{
    for (int i = 0; i < tb_driver_count(); i++)
        if (strcmp(all_drivers[i]->name, name) == 0) return all_drivers[i];
    return NULL;
}

static const tb_metric loop_metric = {.name = "iter_ms", .unit = "ms", .dir = "lower", .kind = "ratio",
                                      .reduce = "max", .scope = "", .statistic = "median", .margin = 0.05};

int tb_driver_metric_count(const tb_driver *driver) { return driver->n_metrics + (driver->run_once != NULL); }

const tb_metric *tb_driver_metric_at(const tb_driver *driver, int index)
{
    int timed = driver->run_once != NULL;
    return index < timed ? &loop_metric : &driver->metrics[index - timed];
}

/* What the harness adds to every launch. */
static const char *const by_harness[] = {"launch_s", "setup_s", "not_steady", "iters_per_sample", "noise.before.*",
                                         "noise.after.*", "log", "hwloc_xml", NULL};

static bool is_one_of(const char *const *names, const char *name, const char **candidates, int *n, int most)
{
    for (int i = 0; names && names[i]; i++) {
        size_t stem = strcspn(names[i], "*");
        if (names[i][stem] ? strncmp(names[i], name, stem) == 0 : strcmp(names[i], name) == 0) return true;
        if (*n < most) candidates[(*n)++] = names[i];
    }
    return false;
}

bool tb_driver_emits(const tb_driver *driver, const char *name, const char **near)
{
    enum { MOST = 128 };
    const char *candidates[MOST];
    int n = 0;
    for (int i = 0; i < tb_driver_metric_count(driver) && n < MOST; i++) {
        const char *metric = tb_driver_metric_at(driver, i)->name;
        if (strcmp(metric, name) == 0) return true;
        candidates[n++] = metric;
    }
    if (is_one_of(driver->emits, name, candidates, &n, MOST) || is_one_of(by_harness, name, candidates, &n, MOST))
        return true;
    *near = tb_nearest(name, candidates, n);
    return false;
}

static const tb_conf *param(const tb_run *run, const char *key)
{
    const tb_conf *node = tb_conf_find(tb_conf_find(run->config, "params"), key);
    assert(node && "the driver reads a parameter that its table of keys does not hold");
    return node;
}

int64_t tb_param_int(const tb_run *run, const char *key)
{
    int64_t value = 0;
    tb_status st = tb_conf_int(param(run, key), key, INT64_MIN, INT64_MAX, &value);
    assert(st == TB_OK);
    return st == TB_OK ? value : 0;
}

double tb_param_num(const tb_run *run, const char *key)
{
    double value = 0;
    tb_status st = tb_conf_num(param(run, key), key, -1e308, 1e308, &value);
    assert(st == TB_OK);
    return st == TB_OK ? value : 0;
}

bool tb_param_bool(const tb_run *run, const char *key)
{
    bool value = false;
    tb_status st = tb_conf_bool(param(run, key), key, &value);
    assert(st == TB_OK);
    return st == TB_OK && value;
}

const char *tb_param_str(const tb_run *run, const char *key)
{
    const char *value = "";
    tb_status st = tb_conf_str(param(run, key), key, &value);
    assert(st == TB_OK);
    return st == TB_OK ? value : "";
}
