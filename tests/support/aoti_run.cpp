// Runs a package of AOTInductor without Python: aoti_run PACKAGE INPUT OUTPUT, the tensors as torch.save writes them.
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/serialization/pickle.h>

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  std::ifstream input(argv[2], std::ios::binary);
  std::vector<char> bytes{std::istreambuf_iterator<char>(input), std::istreambuf_iterator<char>()};
  at::Tensor x = torch::jit::pickle_load(bytes).toTensor();
  torch::inductor::AOTIModelPackageLoader model(argv[1]);
  std::vector<at::Tensor> outputs = model.run({x});
  std::vector<char> saved = torch::jit::pickle_save(outputs.at(0));
  std::ofstream(argv[3], std::ios::binary).write(saved.data(), static_cast<std::streamsize>(saved.size()));
  return 0;
}
