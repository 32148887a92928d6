/* Devices by name. */
#include "device_internal.h"
#include <string.h>

const tb_device *tb_device_find(const char *name)
{
    static const tb_device *const devices[] = {&tbi_device_cpu, &tbi_device_guard, &tbi_device_meta};
    for (size_t i = 0; i < sizeof devices / sizeof devices[0]; i++)
        if (strcmp(devices[i]->name, name) == 0) return devices[i];
    (void)TB_FAIL(TB_ERR_NOT_FOUND, "no device '%s'; there are: cpu, guard, meta", name);
    return NULL;
}
