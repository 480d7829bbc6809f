from .predict import Predictor, predict_images, predict_video

__all__ = ["Predictor", "predict_images", "predict_video"]
