/* The communicator of a launch: what the harness puts around it, so that a rank that fails is found. */
#include "crash.h"
#include "group.h"
#include "tb_driver.h"

static tb_status put_around(const tb_run *run, const char *fault, tb_comm *comm)
{
    TB_TRY(tb_comm_add_check(comm));
    if (*fault) TB_TRY(tb_comm_add_fault(comm, fault));
    if (run->flight) TB_TRY(tb_comm_add_recorder(comm, run->flight)); /* outermost: it sees the call that is struck */
    tb_crash_excuse_by(tb_comm_recorder_excuse(comm));
    return TB_OK;
}

tb_status tb_run_open_comm(const tb_run *run, const char *backend, const tb_comm_options *options, tb_comm **out)
{
    tb_comm_options o = *options;
    const char *fault = "";
    double deadline_s = 0;
    *out = NULL;
    TB_TRY(tb_conf_num(tb_conf_find(run->config, "launch.deadline_s"), "launch.deadline_s", 0, 1e6, &deadline_s));
    TB_TRY(tb_conf_str(tb_conf_find(run->config, "launch.fault"), "launch.fault", &fault));
    if (deadline_s > 0) o.deadline_ns = (int64_t)(deadline_s * 1e9);
    TB_TRY(tb_group_idle_barrier(run->group)); /* the first to be set up so far waits; joining has the deadline */
    tb_group_set_deadline(run->group, (int64_t)(deadline_s * 1e9));
    o.ranks = run->ranks;
    TB_TRY(tb_comm_open_world(run->ranks == 1 ? "self" : backend, &o, out));
    return run->ranks > 1 ? put_around(run, fault, *out) : TB_OK;
}

void tb_run_close_comm(tb_comm *comm)
{
    if (comm && tb_comm_recorder_excuse(comm)) tb_crash_excuse_by(NULL);
    tb_comm_close(comm);
}
