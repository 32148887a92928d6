/* All public headers of the engine. */
#pragma once
#include "tb_artefact.h"
#include "tb_autograd.h"
#include "tb_ctx.h"
#include "tb_exec.h"
#include "tb_graph.h"
#include "tb_ops.h"
#include "tb_pass.h"
#include "tb_profile.h"
#include "tb_safetensors.h"
#include "tb_status.h"
#include "tb_tensor.h"
