"""Pages: one HTML file each, nothing loaded from elsewhere. Templates, styles, scripts are in ``present/templates``."""

from chexmix_cli.core.present.pages.evaluation import evaluation_page
from chexmix_cli.core.present.pages.pictures import Picture
from chexmix_cli.core.present.pages.records import records_page
from chexmix_cli.core.present.pages.review import ReviewStudy, review_page

__all__ = ["Picture", "ReviewStudy", "evaluation_page", "records_page", "review_page"]
