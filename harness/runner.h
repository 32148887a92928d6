/* A run: the launches of an experiment's points, in an order, into a folder; what is there is kept. */
#pragma once
#include "experiment.h"
#include "launch.h"
#include "provenance.h"
#include "record.h"

typedef enum tb_run_mode { TB_RUN_NEW, TB_RUN_RESUME, TB_RUN_FORCE } tb_run_mode;

typedef struct tb_runner {
    const tb_experiment *experiment;
    char *folder;              /* results/runs/<experiment>/<utc> unless --out says another */
    int lock;                  /* the folder, held against other runs; -1: not yet */
    tb_run_mode mode;
    bool traced;
    const volatile int *interrupts;
    tb_text told;              /* warnings that launches gave */
    char build[TB_BUILD_ROOM]; /* of this program */
    int n_foreign;             /* complete launches of another build: of points that are complete they are kept */
    bool *done;                /* [point * launches + launch]: ended ok or invalid, now or before */
    int n_done, n_kept;        /* n_kept of them before this run */
    int n_failed;              /* launches that failed or timed out, now */
    double launch_seconds;     /* of the launches of this run, summed; with n_launched: the estimate */
    int n_launched;
    double core_to_core_ns; /* of the pair of cores that launches are held against; 0: none yet */
    int n_repeated;         /* launches whose cores had moved */
    bool interrupted;
} tb_runner;

/* Chooses or makes the folder and finds what is done. `out` NULL: a new folder (resume: the newest one). */
TB_MUST_USE tb_status tb_runner_open(const tb_experiment *e, tb_run_mode mode, const char *out, tb_runner *r);
void tb_runner_close(tb_runner *r);
/* The launches that are still to be done, as point * launches + launch, in the order of the experiment;
 * returns how many. `order` has room for all. */
int tb_runner_order(const tb_runner *r, int *order);
/* Carries them out one after the other. Returns TB_OK also when launches failed: the counts tell. */
TB_MUST_USE tb_status tb_runner_run(tb_runner *r);
/* Reads the journals (or the HDF5 file) of a point; writes its HDF5 file when all of its launches are done.
 * NULL when nothing was measured, or it cannot be read; a result that cannot be written is there all the same. The
 * caller frees with tb_result_free(). */
TB_MUST_USE tb_status tb_runner_result(tb_runner *r, int point, tb_result **out);
