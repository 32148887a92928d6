/* The devices that tb_device_find() knows. */
#pragma once
#include "tb_device.h"

extern const tb_device tbi_device_cpu, tbi_device_guard, tbi_device_meta;
