"""The nets, one paper per file, and `build`, which makes one from a run's configuration."""

from cnnjax.models.airbench import Airbench94, Airbench95, Airbench96
from cnnjax.models.alexnet import AlexNet
from cnnjax.models.build import MODELS, build, register
from cnnjax.models.cifar import CifarCNN
from cnnjax.models.lenet import LeNet5, LeNet5Of1998
from cnnjax.models.mnist_cnn import MnistCNN
from cnnjax.models.resnet import ResNet, ResNet18, ResNet34, ResNet50, ResNet101
from cnnjax.models.textcnn import TextCNN
from cnnjax.models.vgg import VGG

__all__ = [
    "MODELS",
    "VGG",
    "Airbench94",
    "Airbench95",
    "Airbench96",
    "AlexNet",
    "CifarCNN",
    "LeNet5",
    "LeNet5Of1998",
    "MnistCNN",
    "ResNet",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "ResNet101",
    "TextCNN",
    "build",
    "register",
]

register("airbench94", Airbench94)
register("airbench95", Airbench95)
register("airbench96", Airbench96)
register("alexnet", AlexNet)
register("cifar_cnn", CifarCNN)
register("lenet5", LeNet5)
register("lenet5-1998", LeNet5Of1998)
register("mnist_cnn", MnistCNN)
register("resnet18", ResNet18)
register("resnet34", ResNet34)
register("resnet50", ResNet50)
register("resnet101", ResNet101)
register("textcnn", TextCNN)
register("vgg", VGG)
