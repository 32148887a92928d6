/* All public headers of the engine but those that ops and kernels are written with (tb_op.h, tb_kernel.h: C alone).
 * C++ programs include this one: what it declares has C linkage. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#ifdef __cplusplus
extern "C" {
#endif
#include "tb_alloc.h"
#include "tb_artefact.h"
#include "tb_autograd.h"
#include "tb_comm.h"
#include "tb_conf.h"
#include "tb_cpu.h"
#include "tb_ctx.h"
#include "tb_data.h"
#include "tb_ddp.h"
#include "tb_device.h"
#include "tb_dtype.h"
#include "tb_exec.h"
#include "tb_file.h"
#include "tb_graph.h"
#include "tb_hash.h"
#include "tb_histogram.h"
#include "tb_log.h"
#include "tb_model.h"
#include "tb_nn.h"
#include "tb_ops.h"
#include "tb_optim.h"
#include "tb_params.h"
#include "tb_pass.h"
#include "tb_pipeline.h"
#include "tb_pool.h"
#include "tb_profile.h"
#include "tb_quant.h"
#include "tb_rng.h"
#include "tb_safetensors.h"
#include "tb_schedule.h"
#include "tb_schedule_sim.h"
#include "tb_serve.h"
#include "tb_serve_artefact.h"
#include "tb_serve_model.h"
#include "tb_status.h"
#include "tb_tensor.h"
#include "tb_text.h"
#include "tb_topo.h"
#include "tb_train.h"
#include "tb_verify.h"
#ifdef __cplusplus
}
#endif
