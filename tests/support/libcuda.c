// A CUDA driver without a GPU: kernels load and launch, nothing runs, and every launch is noted with its arguments.
// Triton's own launcher is linked with it, so that all of a launch is tried but the GPU.
#include <cuda.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MOST_PARAMS 64
#define OK CUDA_SUCCESS

typedef struct {
  uint64_t function, where;  // where its arguments begin among all bytes
  uint32_t programs, threads, shared, size, dependent, padding;
} Launch;

static struct { int count, sizes[MOST_PARAMS]; } *functions;
static uint64_t loaded, launched, written, room_launches, room_bytes;
static int capturing;
static Launch *launches;
static unsigned char *bytes;

// what the tests ask

void fake_describe(uint64_t function, int count, const int *sizes) {  // the sizes of a kernel's parameters
  functions[function].count = count;
  memcpy(functions[function].sizes, sizes, count * sizeof(int));
}

uint64_t fake_launches(void) { return launched; }

void fake_forget(void) { launched = written = 0; }

void fake_capture(int on) { capturing = on; }

uint64_t fake_loaded(void) { return loaded; }

void fake_launch(uint64_t i, Launch *launch, unsigned char *arguments) {
  *launch = launches[i];
  memcpy(arguments, bytes + launch->where, launch->size);
}

// what Triton asks of a driver

CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **params, void **extra) {
  uint64_t function = (uint64_t)f;
  if (launched == room_launches)
    launches = realloc(launches, (room_launches = 2 * room_launches + 64) * sizeof(Launch));
  Launch launch = {function, written, config->gridDimX, config->blockDimX, config->sharedMemBytes, 0, 0, 0};
  for (int i = 0; i < config->numAttrs; i++)
    if (config->attrs[i].id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION)
      launch.dependent = config->attrs[i].value.programmaticStreamSerializationAllowed;
  for (int i = 0; i < functions[function].count; i++) {
    uint64_t size = functions[function].sizes[i];
    if (written + size > room_bytes) bytes = realloc(bytes, room_bytes = 2 * room_bytes + 4096);
    memcpy(bytes + written, params[i], size);
    written += size;
  }
  launch.size = written - launch.where;
  launches[launched++] = launch;
  return OK;
}

CUresult cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address,
                                const cuuint64_t *shape, const cuuint64_t *strides, const cuuint32_t *box,
                                const cuuint32_t *steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
  memset(map, 0, sizeof *map);
  memcpy(map, &address, sizeof address);
  return OK;
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = 232448; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 132; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
    default: *value = 1024;
  }
  return OK;
}

CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction f) {
  *value = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0;
  return OK;
}

CUresult cuModuleGetFunction(CUfunction *f, CUmodule module, const char *name) {
  functions = realloc(functions, (loaded + 2) * sizeof *functions);
  functions[++loaded].count = 0;
  *f = (CUfunction)loaded;
  return OK;
}

CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr pointer) {
  *(CUdeviceptr *)data = pointer;
  return OK;
}

CUresult cuGetErrorString(CUresult error, const char **text) { *text = "no error"; return OK; }
CUresult cuDriverGetVersion(int *version) { *version = 12080; return OK; }
CUresult cuInit(unsigned flags) { return OK; }
CUresult cuDeviceGet(CUdevice *device, int i) { *device = i; return OK; }
CUresult cuCtxGetCurrent(CUcontext *context) { *context = (CUcontext)1; return OK; }
CUresult cuCtxSetCurrent(CUcontext context) { return OK; }
CUresult cuCtxGetDevice(CUdevice *device) { *device = 0; return OK; }
CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *status) { *status = capturing; return OK; }
CUresult cuCtxGetLimit(size_t *value, CUlimit limit) { *value = 0; return OK; }
CUresult cuCtxSetLimit(CUlimit limit, size_t value) { return OK; }
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) { *context = (CUcontext)1; return OK; }
CUresult cuModuleLoadData(CUmodule *module, const void *image) {
  *module = (CUmodule)1;
  return capturing ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : OK;
}
CUresult cuModuleUnload(CUmodule module) { return OK; }
CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute attribute, int value) { return OK; }
CUresult cuFuncSetCacheConfig(CUfunction f, CUfunc_cache config) { return OK; }
CUresult cuOccupancyMaxActiveClusters(int *count, CUfunction f, const CUlaunchConfig *config) { *count = 1; return OK; }
